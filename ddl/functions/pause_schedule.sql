-- Pause a schedule, until resume_schedule, also across releases of the code that defines it. Returns whether there is
-- one by that name. It can be repeated.
create or replace function pqlite.pause_schedule(name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  update pqlite.schedules s set paused_at = clock_timestamp()
  where s.name = pause_schedule.name and s.paused_at is null;
  return found or exists (select from pqlite.schedules s where s.name = pause_schedule.name);
end $$;
