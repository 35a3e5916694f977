-- Jobs that are stuck, with the reason in words. Of waiting jobs only the oldest of each lane is shown. Payloads are
-- not shown. (pqlite.too_new is written out, because a role that reads a view needs the right to call the functions in
-- it.)
call pqlite.replace_view('stuck_jobs', $view$
  with recursive head as (
    (select j.id, j.queue, j.job_type, j.priority, j.run_after, j.attempts, j.max_attempts,
            j.metadata -> 'payload_version' as version
     from pqlite.jobs j where j.status = 'READY' and j.crashes = 0
     order by j.queue, j.job_type, -j.priority, j.run_after, j.id limit 1)
    union all
    select n.* from head h cross join lateral (
      select j.id, j.queue, j.job_type, j.priority, j.run_after, j.attempts, j.max_attempts,
             j.metadata -> 'payload_version'
      from pqlite.jobs j
      where j.status = 'READY' and j.crashes = 0
        and (j.queue, j.job_type, -j.priority) > (h.queue, h.job_type, -h.priority)
      order by j.queue, j.job_type, -j.priority, j.run_after, j.id limit 1) n
  ), alive as materialized (
    select w.info ->> 'queues' is null as any_queue, w.info -> 'queues' as queues,
           w.info ->> 'job_types' is null as any_type, w.info -> 'job_types' as job_types,
           w.info -> 'payload_versions' as versions
    from pqlite.workers w where w.dead_at is null and w.lease_until >= statement_timestamp()
  )
  select s.id, s.queue, s.job_type, s.status, s.reason, s.since,
         extract(epoch from statement_timestamp() - s.since)::double precision as seconds,
         s.attempts, s.max_attempts, s.worker
  from (
    select j.id, j.queue, j.job_type, j.status, j.locked_at as since, j.attempts, j.max_attempts,
           coalesce(w.label, j.locked_by) as worker,
           case
             when w.dead_at is not null then 'its worker is dead; any worker that runs takes the job over'
             when w.lease_until < statement_timestamp() then
               'its worker renewed its lease for the last time at ' || to_char(w.renewed_at, 'YYYY-MM-DD HH24:MI:SS OF')
             when w.id is null and j.locked_at < statement_timestamp()
                                   - make_interval(secs => least(coalesce(j.timeout_seconds, 1200), 1e9)) then
               'no registered worker holds it, and it is overdue'
             when j.cancel_requested_at < statement_timestamp() - interval '1 minute' then
               'it was asked to cancel at ' || to_char(j.cancel_requested_at, 'YYYY-MM-DD HH24:MI:SS OF')
               || ', and goes on'
             when j.locked_at < statement_timestamp()
                                - make_interval(secs => least(2 * j.timeout_seconds + 60, 1e9)) then
               'it runs far beyond its timeout of ' || j.timeout_seconds || ' s'
             when j.timeout_seconds is null and j.locked_at < statement_timestamp() - interval '1 day' then
               'it has run for more than a day, and has no timeout'
           end as reason
    from pqlite.jobs j left join pqlite.workers w on w.id = j.locked_by
    where j.status = 'RUNNING'
    union all
    select h.id, h.queue, h.job_type, 'READY', h.run_after, h.attempts, h.max_attempts, null,
           case
             when p.scope is not null then
               'its ' || replace(p.scope, '_', ' ') || ' is paused' || coalesce(' by ' || p.paused_by, '')
               || coalesce(': ' || p.reason, '')
             when not exists (select from alive) then 'due, and no worker is running'
             when not exists (select from alive a where a.any_queue or a.queues ? h.queue) then
               'due, and no worker that runs serves its queue'
             when not exists (select from alive a where (a.any_queue or a.queues ? h.queue)
                                                    and (a.any_type or a.job_types ? h.job_type)) then
               'due, and no worker that serves its queue has a handler for its job type'
             when not exists (select from alive a where (a.any_queue or a.queues ? h.queue)
                                                    and (a.any_type or a.job_types ? h.job_type)
                                                    and (h.version > a.versions -> h.job_type
                                                         and jsonb_typeof(h.version) = 'number') is not true) then
               'due, and no worker that serves its queue knows its payload''s version'
             else 'due for long, though workers serve it: they have too much to do, or jobs of higher priority'
           end
    from head h left join lateral (
      select * from pqlite.pauses p
      where (p.until is null or p.until > statement_timestamp())
        and (p.scope = 'queue' and p.name = h.queue or p.scope = 'job_type' and p.name = h.job_type)
      order by p.scope limit 1) p on true
    where h.run_after < statement_timestamp() - interval '5 minutes'
    union all
    select j.id, j.queue, j.job_type, 'READY', j.run_after, j.attempts, j.max_attempts, null,
           'suspect: a worker died while it held it (' || j.crashes || ' of its attempts); it runs when one has room'
    from pqlite.jobs j
    where j.status = 'READY' and j.crashes > 0 and j.run_after <= statement_timestamp()
    union all
    select j.id, j.queue, j.job_type, 'BLOCKED', j.updated_at, j.attempts, j.max_attempts, null,
           'waits for ' || j.waiting_on || ' other job' || case when j.waiting_on = 1 then '' else 's' end
    from pqlite.jobs j
    where j.status = 'BLOCKED' and j.updated_at < statement_timestamp() - interval '1 hour'
  ) s
  where s.reason is not null
$view$);
