-- Take jobs over from a dead worker; the caller has locked these rows. The attempt counts (the claim has counted it)
-- and the job becomes a suspect; at max_attempts it becomes FAILED, else READY with its old run_after. One of the six
-- functions in which jobs end; the others: settle, complete, cancel, disown, expire.
create or replace function pqlite.take_over(p_ids bigint[], p_reason text)
returns table (id bigint, job_type text, queue text, status text, attempts int, locked_by text)
language plpgsql set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
begin
  return query
  with held as materialized (
    select t.id, j.locked_by from unnest(p_ids) t (id) cross join lateral (
      -- with `status = 'RUNNING'` the planner would scan all RUNNING jobs for each of these
      select j.locked_by from pqlite.jobs j where j.id = t.id and j.locked_by is not null) j
  )
  update pqlite.jobs j
  set status = case when j.cancel_requested_at is not null then 'CANCELLED'
                    when j.attempts >= j.max_attempts then 'FAILED' else 'READY' end,
      finished_at = case when j.cancel_requested_at is not null or j.attempts >= j.max_attempts then v_now end,
      crashes = j.crashes + 1,
      last_error = p_reason || ' (' || j.locked_by || ')',
      errors = pqlite.with_error(j.errors, j.attempts, v_now, p_reason || ' (' || j.locked_by || ')'),
      locked_by = null, locked_at = null, updated_at = v_now
  from held h where j.id = h.id
  returning j.id, j.job_type, j.queue, j.status, j.attempts, h.locked_by;
end $$;
