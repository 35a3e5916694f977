-- Claim the best due job for a caller that is not a registered worker. If no outcome is written, reap_stale makes it
-- READY again, by age. Commits synchronously.
create or replace function pqlite.pickup(p_holder text, p_queues text[], p_types text[]) returns setof pqlite.jobs
language plpgsql set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_lane record;
  v_id bigint;
  v_paused boolean := pqlite.any_pause();
begin
  for v_lane in
    select l.queue, l.job_type, l.priority from pqlite.lanes(p_queues, p_types) l
    where l.run_after <= v_now order by l.priority desc, l.run_after, l.id
  loop
    select j.id into v_id from pqlite.jobs j
    where j.status = 'READY' and j.crashes = 0 and j.queue = v_lane.queue and j.job_type = v_lane.job_type
      and -j.priority = -v_lane.priority and j.run_after <= v_now
      and (j.expires_at is null or j.expires_at > v_now)
      and (not v_paused or j.concurrency_key is null or not pqlite.paused(null, null, j.concurrency_key))
    order by j.run_after, j.id limit 1 for no key update skip locked;
    exit when found;
  end loop;
  if v_id is null then
    select s.id into v_id from pqlite.due_suspects(p_holder, 1, p_queues, p_types) s;
  end if;
  return query
  update pqlite.jobs j
  set status = 'RUNNING', attempts = j.attempts + 1, claims = j.claims + 1, locked_by = p_holder, locked_at = v_now,
      updated_at = v_now, finished_at = null, duration_ms = null, progress = null
  where j.id = v_id
  returning j.*;
end $$;
