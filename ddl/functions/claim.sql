-- Hand due jobs to a worker, lane by lane in the order given, each lane from its watermark (run_after, id) on: p_room to
-- start now, and up to p_prefetch more to start soon. With p_suspect, the jobs that dead workers held come first, as
-- many as due_suspects.sql allows. Neither they nor jobs that may start only once (max_attempts = 1) are prefetched; and
-- while a suspect waits for room nothing is, so that what waits in the worker's memory runs out and there is some.
--
-- p_versions says up to which version the worker knows the payloads of a job type ({"type": 2}; those of types that are
-- not in it, or with null, any): it passes over newer ones, and leaves them to newer workers. They have no range in the
-- index: a lane's watermark moves on past them, and p_versions of `lanes` keeps them from moving it back.
--
-- One lookup a lane and one update for all: a thousand lanes with a job each cost little more than one with a thousand.
-- The form `id = any (...)` cannot be planned as a scan of the table, and no setting of the planner's changes that;
-- equality on the whole lane makes the order free.
-- NO KEY UPDATE: a foreign key of the user's to jobs(id) must not hide a job.
--
-- The claim commits asynchronously: a server crash may undo it, which makes the job READY again. Not so where
-- max_attempts = 1, which promises at most one start.
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
begin
  -- The function is called only where it may find one: almost always there is none.
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
          and (p_versions is null or not pqlite.too_new(j.metadata -> 'payload_version', j.job_type, p_versions))
        order by j.run_after, j.id limit v_want for no key update skip locked) due
      limit v_want) s;
    v_ids := v_ids || coalesce(v_more, '{}');
    v_once := v_once || coalesce(v_more_once, '{}');
  end if;

  if true = any (v_once) then
    -- The first of them that would only wait, and all behind it, stay where they are: the watermark must not pass them.
    -- (cut says so: the lanes have more.)
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
    -- The worker may have been declared dead; and its row, which RUNNING jobs are about to name, must not be deleted
    -- before they can be seen. Last, and only if something was claimed: it is a write.
    perform from pqlite.workers w where w.id = p_worker and w.dead_at is null for key share;
    if not found then
      raise exception 'worker % was declared dead', p_worker using errcode = 'PQ001';
    end if;
  end if;
  if not true = any (v_once) then
    -- Here and local: a SET of the session would leak through a pooler.
    perform set_config('synchronous_commit', 'off', true);
  end if;
end $$;
