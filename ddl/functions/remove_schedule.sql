-- Remove a schedule; its jobs stay. Returns 'REMOVED'; null if there is none by that name; 'DEFINED' if code defines
-- it: then it is not removed, because it would be added again. (Pause it, or remove it from the code.)
create or replace function pqlite.remove_schedule(name text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_defined boolean;
begin
  select s.defined_in = 'code' and s.disabled_at is null into v_defined
  from pqlite.schedules s where s.name = remove_schedule.name for update;
  if v_defined then
    return 'DEFINED';
  end if;
  delete from pqlite.schedules s where s.name = remove_schedule.name;
  return case when found then 'REMOVED' end;
end $$;
