-- The lanes (queue, job_type, priority) that have READY jobs, with the first of each: a loose scan of jobs_ready, one
-- probe per lane. (PostgreSQL wiki, "Loose indexscan".) p_queues null means every queue, p_types null every type.
--
-- For lanes that the caller knows (parallel arrays in index order) the first job behind their watermark is returned,
-- and otherwise only the gaps between these lanes are scanned. So no index entry of a claimed job is visited, which
-- vacuum may not be able to remove. Lanes that are not known are scanned from their beginning.
--
-- Payloads newer than p_versions says are skipped, as in `claim`, and lanes of paused queues and job types.
--
-- Of the jobs that are not due yet only the soonest is returned. p_limit limits the lanes that were not known.
create or replace function pqlite.lanes(
  p_queues text[], p_types text[], p_queue text[] default '{}', p_type text[] default '{}', p_priority int[] default '{}',
  p_after timestamptz[] default '{}', p_after_id bigint[] default '{}', p_limit int default 10000,
  p_versions jsonb default null)
returns table (queue text, job_type text, priority int, run_after timestamptz, id bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off as $$
#variable_conflict use_column
declare
  -- Sorts after every queue and job type: longer than allowed, and of the last character of the database's encoding.
  c_end constant text collate "C" := repeat(convert_from(decode(
    case when getdatabaseencoding() = 'UTF8' then 'f48fbfbf'
         when getdatabaseencoding() like 'EUC%' then 'fefe'
         else 'ff' end, 'hex'), getdatabaseencoding()), 201);
  v_minus int[] := array(select -p from unnest(p_priority) p);
  v_now timestamptz := clock_timestamp();
  v_soonest timestamptz := 'infinity';
  v_later record;
  v_head record;
  v_found int := 0;
  v_paused boolean := pqlite.any_pause();
begin
  for v_head in
    with recursive gap as (
      select * from unnest(array_prepend('', p_queue), array_prepend('', p_type), array_prepend(-2147483647, v_minus),
                           array_append(p_queue, c_end), array_append(p_type, ''), array_append(v_minus, 0))
                    as all_queues (queue, job_type, minus, end_queue, end_type, end_minus)
      where p_queues is null
      union all
      -- Only the wanted queues: jobs in other queues cost nothing.
      select post.queue, post.job_type, post.minus, post.queue,
             coalesce(lead(post.job_type) over within, c_end), coalesce(lead(post.minus) over within, 0)
      from (select q.queue, '', -2147483647 from unnest(p_queues) q (queue)
            union select * from unnest(p_queue, p_type, v_minus)) as post (queue, job_type, minus)
      where p_queues is not null
      window within as (partition by post.queue order by post.job_type collate "C", post.minus)
    ), walk as (
      select gap.queue collate "C", gap.job_type collate "C", gap.minus, null::timestamptz as run_after,
             null::bigint as id, null::jsonb as version, gap.end_queue, gap.end_type, gap.end_minus
      from gap
      union all
      select h.*, w.end_queue, w.end_type, w.end_minus
      from (select w.*,
                   -- on to the next type, if this one is not wanted
                   case when w.job_type <> all (p_types) then 2147483647 else w.minus end as from_minus,
                   w.end_queue collate "C" > w.queue as queues_left,
                   w.end_type collate "C" > w.job_type as types_left
            from walk w) w
      cross join lateral (
        -- Three ranges: up to the end's queue; in that queue up to the end's type; in that type up to the end. Before
        -- version 18 a row comparison ends a scan only where its first column changes, and would scan all jobs of the
        -- end's queue.
        (select j.queue, j.job_type, -j.priority as minus, j.run_after, j.id,
                j.metadata -> 'payload_version' as version
         from pqlite.jobs j
         where j.status = 'READY' and j.crashes = 0 and w.queues_left
           and (j.queue, j.job_type, -j.priority) > (w.queue, w.job_type, w.from_minus) and j.queue < w.end_queue
         order by j.queue, j.job_type, -j.priority, j.run_after, j.id limit 1)
        union all
        (select j.queue, j.job_type, -j.priority, j.run_after, j.id, j.metadata -> 'payload_version'
         from pqlite.jobs j
         where j.status = 'READY' and j.crashes = 0 and w.end_type <> '' and (w.queues_left or w.types_left)
           and j.queue = w.end_queue
           and (j.job_type, -j.priority) > (case when w.queues_left then '' else w.job_type end, w.from_minus)
           and j.job_type < w.end_type
         order by j.queue, j.job_type, -j.priority, j.run_after, j.id limit 1)
        union all
        (select j.queue, j.job_type, -j.priority, j.run_after, j.id, j.metadata -> 'payload_version'
         from pqlite.jobs j
         where j.status = 'READY' and j.crashes = 0 and w.end_type <> ''
           and j.queue = w.end_queue and j.job_type = w.end_type
           and -j.priority > case when w.queues_left or w.types_left then -2147483648 else w.from_minus end
           and -j.priority < w.end_minus
         order by j.queue, j.job_type, -j.priority, j.run_after, j.id limit 1)
        limit 1) h
    )
    select known.queue, known.job_type, known.priority, h.run_after, h.id, false as is_new
    from unnest(p_queue, p_type, p_priority, p_after, p_after_id) as known (queue, job_type, priority, after, after_id)
    cross join lateral (
      select j.run_after, j.id from pqlite.jobs j
      where j.status = 'READY' and j.crashes = 0
        and j.queue = known.queue and j.job_type = known.job_type and -j.priority = -known.priority
        and (j.run_after, j.id) > (known.after, known.after_id)
        and (p_versions is null or not pqlite.too_new(j.metadata -> 'payload_version', j.job_type, p_versions))
      order by j.run_after, j.id limit 1) h
    union all
    select w.queue, w.job_type, -w.minus, h.run_after, h.id, true
    from (select w.*, p_versions is not null and pqlite.too_new(w.version, w.job_type, p_versions) as is_too_new
          from walk w
          where w.id is not null and (p_types is null or w.job_type = any (p_types))) w
    cross join lateral (
      select w.run_after, w.id where not w.is_too_new
      union all
      (select j.run_after, j.id from pqlite.jobs j
       where j.status = 'READY' and j.crashes = 0 and w.is_too_new
         and j.queue = w.queue and j.job_type = w.job_type and -j.priority = w.minus
         and (j.run_after, j.id) > (w.run_after, w.id)
         and not pqlite.too_new(j.metadata -> 'payload_version', j.job_type, p_versions)
       order by j.run_after, j.id limit 1)) h
  loop
    continue when v_paused and pqlite.paused(v_head.queue, v_head.job_type, null);
    if v_head.run_after <= v_now then
      queue := v_head.queue;
      job_type := v_head.job_type;
      priority := v_head.priority;
      run_after := v_head.run_after;
      id := v_head.id;
      return next;
      v_found := v_found + v_head.is_new::int;
      exit when v_found >= p_limit;
    elsif v_head.run_after < v_soonest then
      v_soonest := v_head.run_after;
      v_later := v_head;
    end if;
  end loop;
  if v_soonest < 'infinity' then
    return query select v_later.queue, v_later.job_type, v_later.priority, v_later.run_after, v_later.id;
  end if;
end $$;
