-- Write the outcomes of attempts, many in one call. An outcome is accepted only for the current claim (locked_by,
-- claims). The call can be repeated.
-- Arrays are parallel and sorted by id, so that all callers lock in the same order; those of results and errors may be
-- shorter, which means null for the rest. Outcomes: DONE, RETRY (after p_delay_ms), FAILED, CANCELLED, SNOOZED (after
-- p_delay_ms, no attempt counted), RELEASED (at once, no attempt counted).
-- Returns the rows that were not written, with a verdict:
--   ALREADY  an earlier call has written the outcome of this claim; status is that of the job
--   BUSY     another transaction has locked the row: try again
--   FENCED   the claim is no longer current; nothing was changed
-- With p_statuses, also those that were written with another outcome than DONE, as WRITTEN with the job's status: it
-- may differ from the outcome (a job that was asked to cancel is not retried; after the last attempt a job is FAILED).
-- Jobs that were written as DONE are never returned.
-- With p_keep_done false, jobs that are DONE are deleted, and a job that does not exist counts as ALREADY.
--
-- One of the six functions in which jobs end; the others: complete, cancel, take_over, disown, expire.
--
-- `locked_by = me and claims = mine` implies RUNNING (by a CHECK) and, unlike `status = 'RUNNING'`, makes the planner
-- use the primary key. The lateral lookup starts from the arrays; as a plain join, a batch of 500 became a nested loop
-- of 500 x 500.
drop function if exists pqlite.settle(text, bigint[], int[], text[], text[], text[], bigint[], int[], boolean);
create or replace function pqlite.settle(
  p_worker text, p_id bigint[], p_claims int[], p_outcome text[], p_result text[], p_error text[], p_delay_ms bigint[],
  p_duration_ms int[], p_keep_done boolean default true, p_statuses boolean default false)
returns table (id bigint, claims int, verdict text, status text)
language plpgsql set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_deleted int := 0;
  v_written int;
  v_refused boolean;
begin
  if not p_keep_done then
    delete from pqlite.jobs j where j.id = any (array(
      select mine.id
      from unnest(p_id, p_claims, p_outcome) t (id, claims, outcome) cross join lateral (
        select j.id from pqlite.jobs j
        where j.id = t.id and j.claims = t.claims and j.locked_by = p_worker
        for update skip locked) mine
      where t.outcome = 'DONE'));
    get diagnostics v_deleted = row_count;
    if v_deleted = cardinality(p_id) then
      return;
    end if;
  end if;

  with told as (
    select * from unnest(p_id, p_claims, p_outcome, p_result, p_error, p_delay_ms, p_duration_ms)
      as t (id, claims, outcome, result, error, delay_ms, duration_ms)
  ), held as materialized (
    select t.*,
           case when t.outcome = 'DONE' then 'DONE'
                when t.outcome = 'CANCELLED' or mine.cancel_requested_at is not null then 'CANCELLED'
                when t.outcome = 'FAILED' then 'FAILED'
                when t.outcome = 'RETRY' and mine.attempts >= mine.max_attempts then 'FAILED'
                else 'READY' end as status
    from told t cross join lateral (
      select j.cancel_requested_at, j.attempts, j.max_attempts from pqlite.jobs j
      where j.id = t.id and j.claims = t.claims and j.locked_by = p_worker
      for no key update skip locked) mine
  )
  update pqlite.jobs j set
    status = h.status,
    attempts = case when h.outcome in ('SNOOZED', 'RELEASED') then j.attempts - 1 else j.attempts end,
    run_after = case when h.status = 'READY' and h.outcome in ('RETRY', 'SNOOZED')
                     then v_now + h.delay_ms * interval '1 millisecond' else j.run_after end,
    finished_at = case when h.status <> 'READY' then v_now end,
    result = case when h.outcome = 'DONE' then h.result::jsonb else coalesce(h.result::jsonb, j.result) end,
    last_error = case when h.outcome = 'DONE' then null else coalesce(h.error, j.last_error) end,
    errors = case when h.error is null then j.errors
                  else pqlite.with_error(j.errors, j.attempts, v_now, h.error) end,
    duration_ms = coalesce(h.duration_ms, j.duration_ms),
    locked_by = null, locked_at = null, updated_at = v_now
  from held h where j.id = h.id;
  get diagnostics v_written = row_count;
  if 'RELEASED' = any (p_outcome) then
    -- Workers may be asleep, and the job may be behind their watermarks because it keeps its run_after.
    perform pqlite.wake(p_payload => 'rewind');
  end if;

  v_refused := v_deleted + v_written < cardinality(p_id);
  if v_refused or (p_statuses and 'DONE' <> any (p_outcome)) then
    return query
    select t.id, t.claims,
           case when j.written then 'WRITTEN'
                when not p_keep_done and t.outcome = 'DONE' and j.id is null then 'ALREADY'
                when j.locked_by = p_worker and j.claims = t.claims then 'BUSY'
                when j.claims = t.claims and (j.status = 'DONE' or j.status <> 'RUNNING' and exists (
                       select from pqlite.workers w where w.id = p_worker and w.dead_at is null)) then 'ALREADY'
                else 'FENCED' end,
           case when j.id is null then 'DONE' else j.status end
    from unnest(p_id, p_claims, p_outcome) t (id, claims, outcome)
    left join lateral (
      select j.id, j.locked_by, j.claims, j.status,
             j.updated_at = v_now and j.claims = t.claims and j.locked_by is null as written
      from pqlite.jobs j where j.id = t.id) j on true
    where (v_refused or t.outcome <> 'DONE') and (j.written is not true or (p_statuses and t.outcome <> 'DONE'));
  end if;
end $$;
