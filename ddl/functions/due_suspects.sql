-- The suspects that a worker may start now, in the order they became due, at most p_room; their rows are locked. A
-- suspect is a job whose worker died while it held the job (crashes > 0): the job may be what killed the worker.
--
-- A worker runs suspects at the same time in up to half of its slots (at least one; the number of slots is in its row).
-- A suspect that must run alone (runs_alone.sql) is returned only if the worker runs no suspect, and then without
-- others. No later suspect is returned before it, or new suspects could keep it waiting for ever. So a job that kills
-- its worker costs any other job at most two attempts: one as an ordinary neighbour, one as a suspect beside it.
--
-- With p_room <= 0 it returns one suspect that could start if there were room, and locks no row, because another worker
-- may claim it.
--
-- The suspects that the worker runs are counted here and not passed by the caller, so that the rule holds for workers
-- of every release.
create or replace function pqlite.due_suspects(
  p_worker text, p_room int, p_queues text[], p_types text[], p_versions jsonb default null)
returns table (id bigint, max_attempts int)
language plpgsql set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_running int;
  v_one_alone boolean;
  v_most int;
  v_job record;
  v_after timestamptz := '-infinity';
  v_after_id bigint := 0;
  v_paused boolean := pqlite.any_pause();
begin
  select count(*), coalesce(bool_or(pqlite.runs_alone(j.crashes, j.attempts, j.max_attempts)), false)
  into v_running, v_one_alone
  from pqlite.jobs j where j.status = 'RUNNING' and j.locked_by = p_worker and j.crashes > 0;
  if v_one_alone then
    return;
  end if;
  select greatest((w.info -> 'concurrency')::int / 2, 1) into v_most from pqlite.workers w where w.id = p_worker;
  v_most := least(coalesce(v_most, 1), v_running + greatest(p_room, 1));

  while v_running < v_most loop
    -- The same query twice, because FOR UPDATE cannot depend on a parameter.
    if p_room > 0 then
      select j.id, j.run_after, j.max_attempts, pqlite.runs_alone(j.crashes, j.attempts + 1, j.max_attempts) as alone
      into v_job from pqlite.jobs j
      where j.status = 'READY' and j.crashes > 0 and j.run_after <= v_now and (j.run_after, j.id) > (v_after, v_after_id)
        and (j.expires_at is null or j.expires_at > v_now)
        and pqlite.wanted(j.queue, j.job_type, j.metadata, p_queues, p_types, p_versions)
        and (not v_paused or not pqlite.paused(j.queue, j.job_type, j.concurrency_key))
      order by j.run_after, j.id limit 1 for no key update skip locked;
    else
      select j.id, j.run_after, j.max_attempts, pqlite.runs_alone(j.crashes, j.attempts + 1, j.max_attempts) as alone
      into v_job from pqlite.jobs j
      where j.status = 'READY' and j.crashes > 0 and j.run_after <= v_now and (j.run_after, j.id) > (v_after, v_after_id)
        and (j.expires_at is null or j.expires_at > v_now)
        and pqlite.wanted(j.queue, j.job_type, j.metadata, p_queues, p_types, p_versions)
        and (not v_paused or not pqlite.paused(j.queue, j.job_type, j.concurrency_key))
      order by j.run_after, j.id limit 1;
    end if;
    exit when not found or (v_job.alone and v_running > 0);
    id := v_job.id;
    max_attempts := v_job.max_attempts;
    return next;
    exit when v_job.alone;
    v_running := v_running + 1;
    v_after := v_job.run_after;
    v_after_id := v_job.id;
  end loop;
end $$;
