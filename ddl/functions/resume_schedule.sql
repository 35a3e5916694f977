-- End the pause of a schedule; slots during the pause do not fire. Returns whether there is one by that name.
create or replace function pqlite.resume_schedule(name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  update pqlite.schedules s set paused_at = null
  where s.name = resume_schedule.name and s.paused_at is not null;
  return found or exists (select from pqlite.schedules s where s.name = resume_schedule.name);
end $$;
