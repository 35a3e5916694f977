-- The numbers of jobs that wait, run and have recently ended, per queue and job type. Each part is read by an index, and
-- the history is not read. DONE jobs have no index by age, so they are counted among the newest 20,000 jobs. Payloads are
-- not shown.
call pqlite.replace_view('queue_stats', $view$
  select j.queue, j.job_type,
         count(*) filter (where j.status = 'READY' and j.run_after <= statement_timestamp()) as due,
         count(*) filter (where j.status = 'READY' and j.run_after > statement_timestamp()) as later,
         count(*) filter (where j.status = 'READY' and j.crashed) as suspects,
         count(*) filter (where j.status = 'BLOCKED') as blocked,
         count(*) filter (where j.status = 'RUNNING') as running,
         count(*) filter (where j.status = 'DONE') as done_last_hour,
         count(*) filter (where j.status = 'FAILED') as failed_last_hour,
         count(*) filter (where j.status = 'CANCELLED') as cancelled_last_hour,
         extract(epoch from statement_timestamp() - min(j.run_after) filter (
           where j.status = 'READY' and j.run_after <= statement_timestamp()))::double precision as oldest_due_seconds
  from (
    select r.queue, r.job_type, 'READY' as status, r.run_after, false as crashed
    from pqlite.jobs r where r.status = 'READY' and r.crashes = 0
    union all
    select s.queue, s.job_type, 'READY', s.run_after, true
    from pqlite.jobs s where s.status = 'READY' and s.crashes > 0
    union all
    select r.queue, r.job_type, 'RUNNING', null, false from pqlite.jobs r where r.status = 'RUNNING'
    union all
    select b.queue, b.job_type, 'BLOCKED', null, false from pqlite.jobs b where b.status = 'BLOCKED'
    union all
    select f.queue, f.job_type, f.status, null, false from pqlite.jobs f
    where f.status in ('FAILED', 'CANCELLED') and f.finished_at > statement_timestamp() - interval '1 hour'
    union all
    select d.queue, d.job_type, 'DONE', null, false
    from (select n.queue, n.job_type, n.status, n.finished_at from pqlite.jobs n order by n.id desc limit 20000) d
    where d.status = 'DONE' and d.finished_at > statement_timestamp() - interval '1 hour'
  ) j
  group by j.queue, j.job_type
$view$);
