-- Take over RUNNING jobs that no registered worker holds (claimed by `pickup` or another program), if they were claimed
-- longer ago than their timeout_seconds, or than p_stale_after. Only the ranges of locked_by between registered workers
-- are scanned. (timeout_seconds may be too large for an interval; such a job must not stop the reaping of others.)
create or replace function pqlite.reap_stale(p_stale_after interval, p_limit int default 500)
returns table (id bigint, job_type text, queue text, status text, attempts int, locked_by text)
language plpgsql set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_ids bigint[] := '{}';
  v_gap record;
begin
  for v_gap in
    select lag(w.id) over (order by w.id) as low, w.id as high from pqlite.workers w
    union all select max(w.id), null from pqlite.workers w
  loop
    -- Two statements, because in a cached plan `(high is null or locked_by < high)` does not bound the scan.
    if v_gap.high is not null then
      v_ids := v_ids || array(
        select j.id from pqlite.jobs j
        where j.status = 'RUNNING' and j.locked_by > coalesce(v_gap.low, '') and j.locked_by < v_gap.high
          and j.locked_at < v_now - case when j.timeout_seconds is null then p_stale_after
                                         else make_interval(secs => least(j.timeout_seconds, 1e9)) end
        limit p_limit - cardinality(v_ids) for no key update skip locked);
    else
      v_ids := v_ids || array(
        select j.id from pqlite.jobs j
        where j.status = 'RUNNING' and j.locked_by > coalesce(v_gap.low, '')
          and j.locked_at < v_now - case when j.timeout_seconds is null then p_stale_after
                                         else make_interval(secs => least(j.timeout_seconds, 1e9)) end
        limit p_limit - cardinality(v_ids) for no key update skip locked);
    end if;
    exit when cardinality(v_ids) >= p_limit;
  end loop;
  if cardinality(v_ids) > 0 then
    return query select * from pqlite.take_over(v_ids, 'abandoned');
    perform pqlite.wake(p_payload => 'rewind');
  end if;
end $$;
