-- What waits, runs and has lately ended, as one JSON object, with bounded reads: each lane (queue, job type, priority) and
-- status is counted up to p_cap, of at most 500 lanes; what has ended is read from the newest 20,000 jobs and the latest
-- 20,000 FAILED or CANCELLED ones. A count of p_cap + 1 means "more than p_cap".
--
--   waiting   per queue and job type: due, later, oldest_due_seconds, capped; more_lanes: whether there were more than 500
--   suspects, running, blocked   counts; running also per job type, in running_by_type
--   ended     per job type, over the last 1, 5 and 60 minutes: done_1, done_5, done_60, failed_60, cancelled_60; of the
--             DONE ones the seconds they ran and waited: run_p50, run_p95, run_p99, wait_p50, wait_p95, wait_p99
--   since_minutes   how far back the sample of ended jobs reaches, if that is less than 60
--   failures  per job type and class of the last error, over the last 60 minutes
create or replace function pqlite.stats(p_cap int default 10000) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off
set jit = off as $$
declare
  v_now timestamptz := clock_timestamp();
  v_stats jsonb;
  v_part jsonb;
begin
  with recursive lane as (
    (select j.queue, j.job_type, -j.priority as minus, j.run_after as first, 1 as place
     from pqlite.jobs j where j.status = 'READY' and j.crashes = 0
     order by j.queue, j.job_type, -j.priority, j.run_after, j.id limit 1)
    union all
    select n.*, l.place + 1 from lane l cross join lateral (
      select j.queue, j.job_type, -j.priority, j.run_after
      from pqlite.jobs j
      where j.status = 'READY' and j.crashes = 0 and (j.queue, j.job_type, -j.priority) > (l.queue, l.job_type, l.minus)
      order by j.queue, j.job_type, -j.priority, j.run_after, j.id limit 1) n
    where l.place < 501
  ), counted as (
    select l.queue, l.job_type, l.first, d.number as due, f.number as later
    from lane l
    cross join lateral (
      select count(*) as number from (
        select from pqlite.jobs j
        where j.status = 'READY' and j.crashes = 0 and j.queue = l.queue and j.job_type = l.job_type
          and -j.priority = l.minus and j.run_after <= v_now limit p_cap + 1) c) d
    cross join lateral (
      select count(*) as number from (
        select from pqlite.jobs j
        where j.status = 'READY' and j.crashes = 0 and j.queue = l.queue and j.job_type = l.job_type
          and -j.priority = l.minus and j.run_after > v_now limit p_cap + 1) c) f
    where l.place <= 500
  )
  select jsonb_build_object(
    'more_lanes', exists (select from lane l where l.place > 500),
    'waiting', coalesce((
      select jsonb_agg(to_jsonb(w) order by w.queue, w.job_type) from (
        select c.queue, c.job_type, least(sum(c.due), p_cap + 1) as due, least(sum(c.later), p_cap + 1) as later,
               greatest(extract(epoch from v_now - min(c.first) filter (where c.first <= v_now)), 0)::float8
                 as oldest_due_seconds
        from counted c group by c.queue, c.job_type) w), '[]'))
  into v_stats;

  select jsonb_build_object(
    'suspects', (select count(*) from (
      select from pqlite.jobs j where j.status = 'READY' and j.crashes > 0 limit p_cap + 1) c),
    'blocked', (select count(*) from (select from pqlite.jobs j where j.status = 'BLOCKED' limit p_cap + 1) c),
    'running', coalesce(sum(r.number), 0),
    'running_by_type', coalesce(jsonb_object_agg(r.job_type, r.number) filter (where r.job_type is not null), '{}'))
  into v_part
  from (select c.job_type, count(*) as number
        from (select j.job_type from pqlite.jobs j where j.status = 'RUNNING' limit p_cap + 1) c group by 1) r;
  v_stats := v_stats || v_part;

  with newest as (
    select j.job_type, j.status, j.finished_at, j.created_at, j.duration_ms, j.run_after
    from pqlite.jobs j order by j.id desc limit 20000
  ), ended as (
    select n.job_type, n.status, n.finished_at, n.duration_ms / 1000.0 as run, null as error,
           extract(epoch from n.finished_at - n.run_after) - n.duration_ms / 1000.0 as wait
    from newest n where n.status = 'DONE' and n.finished_at > v_now - interval '1 hour'
    union all
    select f.job_type, f.status, f.finished_at, null,
           regexp_replace(regexp_replace(rtrim(f.last_error, E'\n '), '^.*\n', ''), ':.*$', ''), null
    from (select * from pqlite.jobs j
          where j.status in ('FAILED', 'CANCELLED') and j.finished_at > v_now - interval '1 hour'
          order by j.finished_at desc limit 20000) f
  )
  select jsonb_build_object(
    'since_minutes', (select case when count(*) = 20000 then
                        least(extract(epoch from v_now - min(n.created_at)) / 60, 60)::float8 else 60 end from newest n),
    'ended', coalesce((
      select jsonb_agg(to_jsonb(t) order by t.job_type) from (
        select e.job_type,
               count(*) filter (where e.status = 'DONE' and e.finished_at > v_now - interval '1 minute') as done_1,
               count(*) filter (where e.status = 'DONE' and e.finished_at > v_now - interval '5 minutes') as done_5,
               count(*) filter (where e.status = 'DONE') as done_60,
               count(*) filter (where e.status = 'FAILED') as failed_60,
               count(*) filter (where e.status = 'CANCELLED') as cancelled_60,
               percentile_cont(0.5) within group (order by e.run) as run_p50,
               percentile_cont(0.95) within group (order by e.run) as run_p95,
               percentile_cont(0.99) within group (order by e.run) as run_p99,
               percentile_cont(0.5) within group (order by greatest(e.wait, 0)) filter (where e.wait is not null) as wait_p50,
               percentile_cont(0.95) within group (order by greatest(e.wait, 0)) filter (where e.wait is not null) as wait_p95,
               percentile_cont(0.99) within group (order by greatest(e.wait, 0)) filter (where e.wait is not null) as wait_p99
        from ended e group by e.job_type) t), '[]'),
    'failures', coalesce((
      select jsonb_agg(to_jsonb(x) order by x.number desc, x.job_type) from (
        select e.job_type, left(coalesce(e.error, ''), 200) as error, count(*) as number
        from ended e where e.status = 'FAILED' group by 1, 2 order by 3 desc limit 50) x), '[]'))
  into v_part;
  return v_stats || v_part;
end $$;
