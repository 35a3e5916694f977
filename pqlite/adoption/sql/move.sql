-- Move jobs. What a worker of pqrun's held was begun and never settled, as if it had died: that counted as an attempt,
-- and makes the job suspect (see take_over).
with moved as (delete from pqlite.pqrun_jobs j where j.id = any ($1::bigint[]) returning j.*),
read as (
  select m.*, m.status = 'RUNNING' as held, m.status = 'RUNNING' and m.attempts >= greatest(m.max_attempts, 1) as spent,
         case when m.status = 'RUNNING' then 'worker died (' || coalesce(m.locked_by, 'unknown') || ')'
              else m.last_error end as error
  from moved m
)
insert into pqlite.jobs (
  id, job_type, payload, status, priority, attempts, max_attempts, claims, crashes, run_after, timeout_seconds,
  dedupe_key, last_error, errors, finished_at, duration_ms, result, metadata, created_at, updated_at)
select r.id, r.job_type, coalesce(r.payload, '{}'),
       case when r.spent then 'FAILED' when r.held then 'READY' else r.status::text end,
       greatest(r.priority, -2147483647), r.attempts, greatest(r.max_attempts, 1), r.attempts, r.held::int, r.run_after,
       case when r.timeout_seconds > 0 then r.timeout_seconds end,
       case when octet_length(r.dedupe_key) between 1 and 1024 then r.dedupe_key end,
       r.error,
       case when r.error is null then '[]'
            else pqlite.with_error('[]', r.attempts, coalesce(r.finished_at, r.updated_at), r.error) end,
       case when r.spent then clock_timestamp()
            when not r.held and r.status <> 'READY' then coalesce(r.finished_at, r.updated_at) end,
       r.duration_ms, r.result, r.rest, r.created_at, r.updated_at
from read r
