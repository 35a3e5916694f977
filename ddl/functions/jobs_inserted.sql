-- Statement trigger: whoever inserts jobs, by whatever client, wakes the workers that sleep.
-- SECURITY DEFINER, so that a role that may only INSERT needs no right on the register.
create or replace function pqlite.jobs_inserted() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pqlite.wake();
  return null;
end $$;

-- Only once: it locks the table against writers, and this file is applied by every migration.
do $$ begin
  if not exists (select from pg_trigger t where t.tgrelid = 'pqlite.jobs'::regclass and t.tgname = 'jobs_inserted') then
    create trigger jobs_inserted after insert on pqlite.jobs
      for each statement execute function pqlite.jobs_inserted();
  end if;
end $$;
