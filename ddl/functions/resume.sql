-- End the pause of a queue, a job type or a concurrency key. Returns whether there was one.
create or replace function pqlite.resume(scope text, name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  delete from pqlite.pauses p where p.scope = resume.scope and p.name = resume.name;
  if not found then
    return false;
  end if;
  -- Due jobs may be behind the watermarks of workers that sleep, and of those that are busy.
  if current_setting('pqlite_settings.notify', true) is distinct from 'off' then
    perform pg_notify('pqlite_wake', 'rewind');
  end if;
  return true;
end $$;
