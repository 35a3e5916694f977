-- Claim due jobs for a worker, lane by lane in the order given, each lane from its watermark (run_after, id) on: p_room
-- to start now, and up to p_prefetch more to start soon. With p_suspect, suspects (jobs whose worker died) come first,
-- as many as due_suspects.sql allows. Neither suspects nor jobs with max_attempts = 1 are prefetched. While a suspect
-- waits for room nothing is prefetched, so that the prefetched jobs run out and room becomes free.
--
-- p_versions says which payload versions the worker supports ({"type": 2}; all versions of other types, and of all
-- types if it is null). Jobs with newer payloads are skipped and left to other workers. They are not separate in the
-- index: a lane's watermark moves past them, and p_versions of `lanes` prevents them from moving it back.
--
-- One lookup for each lane and one update for all jobs: a thousand lanes with one job each cost little more than one
-- lane with a thousand jobs. `id = any (...)` can only be planned as an index lookup; equality on all columns of a lane
-- makes a sort unnecessary.
-- NO KEY UPDATE, because a user's foreign key to jobs(id) must not make a claim skip a job.
--
-- Jobs that are paused (pause.sql) or expired (expire.sql) are skipped.
--
-- The claim commits asynchronously: a server crash may undo it, and the job is READY again. With max_attempts = 1,
-- which promises at most one start, it commits synchronously.
create or replace function pqlite.claim(
  p_worker text, p_room int, p_suspect boolean, p_queues text[], p_types text[],
  p_queue text[], p_type text[], p_priority int[], p_after timestamptz[], p_after_id bigint[],
  p_prefetch int default 0, p_versions jsonb default null)
returns table (
  id bigint, job_type text, payload text, queue text, priority int, run_after timestamptz, attempts int,
  max_attempts int, claims int, crashes int, timeout_seconds double precision, dedupe_key text, concurrency_key text,
  tags text[], metadata text, created_at timestamptz, locked_at timestamptz, cancel_requested_at timestamptz,
  cut boolean)
language plpgsql set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_want int := p_room + p_prefetch;
  v_ids bigint[] := '{}';
  v_once boolean[] := '{}';
  v_more bigint[];
  v_more_once boolean[];
  v_cut int;
  v_paused boolean := pqlite.any_pause();
begin
  -- Almost always there is no suspect: then the function is not called.
  if p_suspect and exists (select from pqlite.jobs j
                           where j.status = 'READY' and j.crashes > 0 and j.run_after <= v_now) then
    select array_agg(s.id), array_agg(s.max_attempts = 1) into v_more, v_more_once
    from pqlite.due_suspects(p_worker, p_room, p_queues, p_types, p_versions) s;
    if v_more is not null then
      if p_room <= 0 then
        return;
      end if;
      v_ids := v_more;
      v_once := v_more_once;
      v_want := v_want - cardinality(v_more);
    end if;
  end if;

  if v_want > 0 and cardinality(p_queue) > 0 then
    select array_agg(s.id), array_agg(s.once) into v_more, v_more_once from (
      select due.id, due.once
      from unnest(p_queue, p_type, p_priority, p_after, p_after_id) as l (queue, job_type, priority, after, after_id)
      cross join lateral (
        select j.id, j.max_attempts = 1 as once from pqlite.jobs j
        where j.status = 'READY' and j.crashes = 0
          and j.queue = l.queue and j.job_type = l.job_type and -j.priority = -l.priority
          and j.run_after <= v_now and (j.run_after, j.id) > (l.after, l.after_id)
          and (j.expires_at is null or j.expires_at > v_now)
          and (not v_paused or not pqlite.paused(l.queue, l.job_type, null))
          and (not v_paused or j.concurrency_key is null or not pqlite.paused(null, null, j.concurrency_key))
          and (p_versions is null or not pqlite.too_new(j.metadata -> 'payload_version', j.job_type, p_versions))
        order by j.run_after, j.id limit v_want for no key update skip locked) due
      limit v_want) s;
    v_ids := v_ids || coalesce(v_more, '{}');
    v_once := v_once || coalesce(v_more_once, '{}');
  end if;

  if true = any (v_once) then
    -- Leave the first job with max_attempts = 1 that would be prefetched, and all behind it, because the watermark must
    -- not pass them. (`cut` tells the worker that the lanes have more.)
    select min(u.at) into v_cut from unnest(v_once) with ordinality u (once, at) where u.once and u.at > p_room;
    v_ids := v_ids[:coalesce(v_cut - 1, cardinality(v_ids))];
    v_once := v_once[:coalesce(v_cut - 1, cardinality(v_once))];
  end if;

  if v_ids <> '{}' then
    return query
    update pqlite.jobs j
    set status = 'RUNNING', attempts = j.attempts + 1, claims = j.claims + 1, locked_by = p_worker, locked_at = v_now,
        updated_at = v_now, finished_at = null, duration_ms = null, progress = null
    where j.id = any (v_ids)
    returning j.id, j.job_type, j.payload::text, j.queue, j.priority, j.run_after, j.attempts, j.max_attempts,
              j.claims, j.crashes, j.timeout_seconds, j.dedupe_key, j.concurrency_key, nullif(j.tags, '{}'),
              nullif(j.metadata, '{}')::text, j.created_at, j.locked_at, j.cancel_requested_at, v_cut is not null;
    -- The worker may have been declared dead. The lock prevents that its row is deleted before these RUNNING jobs are
    -- visible. It is taken last, and only if something was claimed, because a row lock is a write.
    perform from pqlite.workers w where w.id = p_worker and w.dead_at is null for key share;
    if not found then
      raise exception 'worker % was declared dead', p_worker using errcode = 'PQ001';
    end if;
  end if;
  if not true = any (v_once) then
    -- Local to the transaction, because a SET for the session would leak through a pooler.
    perform set_config('synchronous_commit', 'off', true);
  end if;
end $$;
