-- Four roles with no more rights than their work needs, for the schema pqlite; see README.md, "Roles".
--
--   psql -f ddl/roles.sql app              run it after the first migrate, and after each later one
--   grant pqlite_worker to my_app;         then make your own login roles members
--
-- Repeating it is harmless: it restores what is written here, and takes nothing from any other role but the ownership. It
-- needs the right to create roles. Roles belong to the whole server: databases that have a schema pqlite share these four.
\set ON_ERROR_STOP on
begin;
-- Whoever may create functions in a schema of our search path must not run any as us.
set local search_path = pg_catalog, pg_temp;
set local lock_timeout = '5s';

do $$ begin
  if to_regrole('pqlite_migrator') is null then create role pqlite_migrator nologin; end if;
  if to_regrole('pqlite_worker') is null then create role pqlite_worker nologin; end if;
  if to_regrole('pqlite_producer') is null then create role pqlite_producer nologin; end if;
  if to_regrole('pqlite_viewer') is null then create role pqlite_viewer nologin; end if;
  if not pg_has_role(to_regrole('pqlite_migrator'), 'usage') then
    grant pqlite_migrator to current_user;  -- ALTER ... OWNER TO requires membership in the new owner
  end if;
end $$;

-- The migrator owns the schema and all in it, so that functions which run with their owner's rights can do nothing else.
-- What it owns already is not touched: giving a table away locks it.
do $$
declare
  v_schema oid := 'pqlite'::regnamespace;
  v_owner oid := to_regrole('pqlite_migrator');
  v_former oid := (select c.relowner from pg_class c where c.oid = 'pqlite.jobs'::regclass);
  v_object record;
begin
  if (select n.nspowner from pg_namespace n where n.oid = v_schema) <> v_owner then
    alter schema pqlite owner to pqlite_migrator;
  end if;
  for v_object in
    select case c.relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end as kind,
           c.oid::regclass::text as name
    from pg_class c
    where c.relnamespace = v_schema and c.relowner <> v_owner and c.relkind in ('r', 'p', 'v', 'S')
      -- the sequence of a column goes with its table
      and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
                                                and d.deptype in ('a', 'i') and c.relkind = 'S')
    union all
    select 'routine', p.oid::regprocedure::text from pg_proc p where p.pronamespace = v_schema and p.proowner <> v_owner
  loop
    execute format('alter %s %s owner to pqlite_migrator', v_object.kind, v_object.name);
  end loop;
  -- A view acts with its owner's rights. `pqlite adopt` leaves one in the place of pqrun's table, and it must go on.
  if v_former <> v_owner and exists (
       select from pg_depend d
       join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
       join pg_class v on v.oid = r.ev_class
       where d.refclassid = 'pg_class'::regclass and d.refobjid = 'pqlite.jobs'::regclass
         and v.relnamespace <> v_schema and v.relowner = v_former) then
    execute format('grant select, insert, update, delete on pqlite.jobs to %s', v_former::regrole);
  end if;
end $$;

revoke all on all tables in schema pqlite from pqlite_worker, pqlite_producer, pqlite_viewer;
revoke all on all sequences in schema pqlite from pqlite_worker, pqlite_producer, pqlite_viewer;
revoke all on all routines in schema pqlite from pqlite_worker, pqlite_producer, pqlite_viewer;
grant usage on schema pqlite to pqlite_worker, pqlite_producer, pqlite_viewer;

-- A worker reads and writes jobs, workers and schedules; it calls every function but what migrations need.
grant select, insert, update, delete on pqlite.jobs, pqlite.workers, pqlite.schedules, pqlite.pauses,
  pqlite.audit to pqlite_worker;
grant select on pqlite.migrations to pqlite_worker;
grant select, update on pqlite.wake_until, pqlite.wake_all, pqlite.wake_0, pqlite.wake_1, pqlite.wake_2, pqlite.wake_3,
  pqlite.wake_4, pqlite.wake_5, pqlite.wake_6, pqlite.wake_7 to pqlite_worker;
grant execute on all routines in schema pqlite to pqlite_worker;
revoke execute on procedure pqlite.replace_view from pqlite_worker;

-- A producer calls the functions of the SQL contract, which act with the owner's rights. No right on any table.
grant execute on function pqlite.enqueue, pqlite.enqueue_many, pqlite.enqueue_keyless, pqlite.enqueue_on_change,
  pqlite.cancel, pqlite.retry, pqlite.job, pqlite.ended to pqlite_producer;

-- A viewer reads the views, which show nothing of payloads.
grant select on pqlite.queue_stats, pqlite.stuck_jobs, pqlite.schedule_stats to pqlite_viewer;

commit;
