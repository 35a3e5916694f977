-- Statement trigger: inserts by any client wake sleeping workers.
-- SECURITY DEFINER, so that a role that may only INSERT needs no privilege on the registers.
create or replace function pqlite.jobs_inserted() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_queues text[];
begin
  if (select r.last_value from pqlite.wake_until r) >= (extract(epoch from clock_timestamp()) * 1000)::bigint then
    v_queues := array(select distinct i.queue from inserted i limit 21);
    if v_queues <> '{}' then
      perform pqlite.wake(case when cardinality(v_queues) <= 20 then v_queues end);
    end if;
  end if;
  return null;
end $$;

-- Only if it does not exist, because creating it locks the table against writers and every migration applies this file.
-- If the trigger is disabled (by `alter table pqlite.jobs disable trigger all`, around a bulk load) it is enabled
-- again.
do $$ begin
  if not exists (select from pg_trigger t where t.tgrelid = 'pqlite.jobs'::regclass and t.tgname = 'jobs_inserted') then
    create trigger jobs_inserted after insert on pqlite.jobs referencing new table as inserted
      for each statement execute function pqlite.jobs_inserted();
  end if;
  if exists (select from pg_trigger t
             where t.tgrelid = 'pqlite.jobs'::regclass and t.tgname = 'jobs_inserted' and t.tgenabled in ('D', 'R')) then
    alter table pqlite.jobs enable trigger jobs_inserted;
  end if;
end $$;
