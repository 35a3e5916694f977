-- What is wrong with the queue, and what to do about it. severity is 'error' (jobs do not run), 'warning' (they soon may
-- not, or the database suffers) or 'info'. p_patience: from which age on transactions, due jobs and schedules are told.
-- Reads what waits by its first jobs per lane, never the history.
create or replace function pqlite.doctor(p_patience interval default '5 minutes')
returns table (severity text, code text, finding text, advice text)
language plpgsql set search_path = pg_catalog, pg_temp set jit = off as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_alive int := (select count(*) from pqlite.workers w where w.dead_at is null and w.lease_until >= v_now);
begin
  return query
  select 'error', 'PRIVILEGES', format('%s may not %s', current_user, t.missing),
         'give it the role of a worker: see ddl/roles.sql'
  from (select string_agg(p || ' ' || c.oid::regclass, ', ' order by c.relname, p) as missing
        from pg_class c cross join unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p
        where c.relnamespace = 'pqlite'::regnamespace and c.relname in ('jobs', 'workers', 'schedules')
          and not has_table_privilege(c.oid, p)) t
  where t.missing is not null;

  return query
  select 'error', 'TRIGGER', 'the trigger jobs_inserted of pqlite.jobs is missing or disabled: nothing wakes workers',
         'run pqlite migrate'
  where not exists (select from pg_trigger t where t.tgrelid = 'pqlite.jobs'::regclass and t.tgname = 'jobs_inserted'
                                             and t.tgenabled in ('O', 'A'));

  -- Workers
  return query
  select 'error', 'DEAD_WORKER',
         format('worker %s is %s since %s and holds %s job%s', w.id,
                case when w.dead_at is null then 'silent' else 'dead' end, coalesce(w.dead_at, w.renewed_at), h.jobs,
                case h.jobs when 1 then '' else 's' end),
         'a running worker with the reaper enabled takes them over within seconds: start one'
  from pqlite.workers w
  cross join lateral (select count(*) as jobs from pqlite.jobs j where j.status = 'RUNNING' and j.locked_by = w.id) h
  where (w.dead_at is not null or w.lease_until < v_now) and h.jobs > 0;
  return query
  select 'warning', 'SILENT_WORKER', format('worker %s has not renewed its lease since %s', w.id, w.renewed_at),
         format('look at its process, %s on %s, and at the network between it and the database',
                coalesce(w.info ->> 'pid', '?'), coalesce(w.info ->> 'host', '?'))
  from pqlite.workers w
  where w.dead_at is null and w.lease_until < v_now
    and not exists (select from pqlite.jobs j where j.status = 'RUNNING' and j.locked_by = w.id);
  return query
  select 'warning', 'LOST_JOB', format('job %s runs since %s for %s, which is not registered', j.id, j.locked_at, j.locked_by),
         'if it was picked up by hand, its program is gone: store.reap_stale() makes it READY'
  from pqlite.jobs j
  where j.status = 'RUNNING' and not exists (select from pqlite.workers w where w.id = j.locked_by)
    and j.locked_at < v_now - greatest(p_patience, make_interval(secs => least(coalesce(j.timeout_seconds, 0), 1e9)))
  limit 20;

  -- Jobs that wait
  return query
  select 'error', l.code, l.finding, l.advice
  from (
    select d.queue, d.job_type,
           case when v_alive = 0 then 'NO_WORKER' else 'ORPHANS' end as code,
           format('jobs of the type %s in the queue %s are due since %s, and %s', d.job_type, d.queue, d.since,
                  case when v_alive = 0 then 'no worker is running' else 'no worker that runs serves them' end) as finding,
           case when v_alive = 0 then 'start a worker'
                else 'start one that has a handler for them and serves the queue, or cancel the jobs' end as advice
    from (select a.queue, a.job_type, min(a.run_after) as since from pqlite.lanes(null, null) a
          where a.run_after <= v_now group by 1, 2) d
    where not exists (
      select from pqlite.workers w where w.dead_at is null and w.lease_until >= v_now
        and (w.info ->> 'queues' is null or w.info -> 'queues' ? d.queue)
        and (w.info ->> 'job_types' is null or w.info -> 'job_types' ? d.job_type))
    order by d.since limit 20) l;
  return query
  select 'warning', 'BACKLOG', format('jobs of the type %s in the queue %s are due since %s, though workers serve them',
                                      b.job_type, b.queue, b.since),
         'start more workers, raise their concurrency, or see what the running jobs wait for'
  from (select a.queue, a.job_type, min(a.run_after) as since from pqlite.lanes(null, null) a
        where a.run_after < v_now - p_patience group by 1, 2) b
  where exists (
    select from pqlite.workers w where w.dead_at is null and w.lease_until >= v_now
      and (w.info ->> 'queues' is null or w.info -> 'queues' ? b.queue)
      and (w.info ->> 'job_types' is null or w.info -> 'job_types' ? b.job_type))
  order by b.since limit 20;
  return query
  select 'info', 'PAUSED', format('the %s %s is paused since %s', replace(p.scope, '_', ' '), p.name, p.paused_at)
         || coalesce(' by ' || p.paused_by, '') || coalesce(': ' || p.reason, ''),
         'resume it when its reason is gone: pqlite queues resume'
  from pqlite.pauses p where p.until is null and p.paused_at < v_now - p_patience
  order by p.paused_at limit 20;

  -- Schedules
  return query
  select case when s.problem is null then 'warning' else 'error' end,
         case when s.problem is null then 'SCHEDULE_LATE' else 'SCHEDULE_PROBLEM' end,
         format('the schedule %s %s', s.name, coalesce('does not work: ' || s.problem, 'should have fired at ' || s.next_at)),
         case when s.problem is null then 'start a worker with the scheduler enabled'
              else 'correct the schedule: in the code, or by store.change_schedule' end
  from pqlite.schedules s
  where s.paused_at is null and s.disabled_at is null
    and (s.problem is not null or s.next_at < v_now - p_patience)
  order by s.next_at limit 20;

  -- The database
  return query
  select 'warning', 'LONG_TRANSACTION',
         format('process %s (%s, %s) has been in a transaction for %s: vacuum cannot remove what was deleted since',
                a.pid, a.usename, coalesce(nullif(a.application_name, ''), 'no name'),
                date_trunc('second', v_now - a.xact_start)),
         format('if it is forgotten: select pg_terminate_backend(%s)', a.pid)
  from pg_stat_activity a
  where a.datname = current_database() and a.pid <> pg_backend_pid() and a.backend_type = 'client backend'
    and a.xact_start < v_now - p_patience and (a.backend_xmin is not null or a.backend_xid is not null)
  order by a.xact_start limit 20;
  return query
  select 'warning', 'PREPARED_TRANSACTION', format('the transaction %L has been prepared since %s', p.gid, p.prepared),
         'commit prepared or rollback prepared it'
  from pg_prepared_xacts p
  where p.database = current_database() and p.prepared < v_now - p_patience
  order by p.prepared limit 20;
  return query
  select 'warning', 'AUTOVACUUM', case when current_setting('autovacuum') = 'off' then 'autovacuum is off on this server'
                                       else 'autovacuum is disabled for pqlite.jobs' end,
         'turn it on: dead rows make claims slow'
  from pg_class c
  where c.oid = 'pqlite.jobs'::regclass
    and (current_setting('autovacuum') = 'off'
         or array_to_string(c.reloptions, ',') ~ '(^|,)autovacuum_enabled=(false|off|no|0)');
  return query
  select 'warning', 'DEAD_ROWS', format('the table %s has %s dead rows beside %s living ones; last vacuum: %s', s.relname,
           s.n_dead_tup, s.n_live_tup, coalesce(greatest(s.last_vacuum, s.last_autovacuum)::text, 'never')),
         'see that nothing holds vacuum up (long transactions), then: vacuum ' || s.relid::regclass
  from pg_stat_user_tables s
  where s.relid in ('pqlite.jobs'::regclass, 'pqlite.workers'::regclass, 'pqlite.schedules'::regclass)
    and s.n_dead_tup > 50000 + s.n_live_tup / 5;
  return query
  select 'info', 'OLD_JOBS', format('a %s job has been kept since %s', o.status, o.finished_at),
         'workers delete FAILED and CANCELLED jobs after 30 days, unless retain_failed says otherwise: does one run?'
  from (select j.status, j.finished_at from pqlite.jobs j
        where j.status in ('FAILED', 'CANCELLED') order by j.finished_at limit 1) o
  where o.finished_at < v_now - interval '31 days';
end $$;
