-- Enqueue a batch in the caller's transaction; one row out per row in, in any order, told apart by its ordinal.
-- Payloads, tags and metadata are JSON. Where an array, or an element of it, is null, the row gets the default; an array
-- of one element stands for all rows.
--
--   select * from pqlite.enqueue_many('{mail}', array['{"to": 1}', '{"to": 2}'], p_dedupe_key => '{mail:1,mail:2}');
--
-- Keyed rows are inserted in the order of their keys: one lock order for all callers, so that two batches with the same
-- keys cannot deadlock. It is the order of bytes, whatever the database's collation: clients cut long lists into
-- batches by it. A key that comes twice in a batch resolves to one job.
create or replace function pqlite.enqueue_many(
  p_job_type text[], p_payload text[] default null, p_dedupe_key text[] default null,
  p_run_after timestamptz[] default null, p_delay interval[] default null, p_priority int[] default null,
  p_max_attempts int[] default null, p_timeout_seconds double precision[] default null, p_queue text[] default null,
  p_tags text[] default null, p_metadata text[] default null, p_concurrency_key text[] default null,
  p_expires_at timestamptz[] default null)
returns table (ordinal int, id bigint, inserted boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
#variable_conflict use_column
declare
  v_count int := greatest(cardinality(p_job_type), cardinality(p_payload), cardinality(p_dedupe_key));
  v_open bigint[] := array(select generate_series(1, v_count));
  v_drawn bigint[];
  v_ordinal bigint[];
  v_id bigint[];
  v_now timestamptz := clock_timestamp();
begin
  for v_try in 1 .. 10 loop
    v_drawn := pqlite.draw_ids(cardinality(v_open));
    with source as materialized (
      select r.*, v_drawn[row_number() over (order by r.dedupe_key collate "C", r.i)] as new_id
      -- unnest and no subscripts: to find the n-th text of an array, the server walks over all before it.
      from unnest(pqlite.spread(p_job_type, v_count), pqlite.spread(p_payload, v_count),
                  pqlite.spread(p_dedupe_key, v_count), pqlite.spread(p_run_after, v_count),
                  pqlite.spread(p_delay, v_count), pqlite.spread(p_priority, v_count),
                  pqlite.spread(p_max_attempts, v_count), pqlite.spread(p_timeout_seconds, v_count),
                  pqlite.spread(p_queue, v_count), pqlite.spread(p_tags, v_count),
                  pqlite.spread(p_metadata, v_count), pqlite.spread(p_concurrency_key, v_count),
                  pqlite.spread(p_expires_at, v_count)) with ordinality
           as r (job_type, payload, dedupe_key, run_after, delay, priority, max_attempts, timeout_seconds, queue, tags,
                 metadata, concurrency_key, expires_at, i)
      where v_try = 1 or r.i = any (v_open)
      order by r.dedupe_key collate "C", r.i
    ), new as (
      insert into pqlite.jobs (id, job_type, payload, dedupe_key, run_after, priority, max_attempts, timeout_seconds,
                               queue, tags, metadata, concurrency_key, expires_at)
      select s.new_id, s.job_type, coalesce(s.payload::jsonb, '{}'), s.dedupe_key,
             (coalesce(s.run_after, v_now) at time zone 'UTC' + coalesce(s.delay, interval '0')) at time zone 'UTC',
             coalesce(s.priority, 0), coalesce(s.max_attempts, 5), s.timeout_seconds, coalesce(s.queue, 'default'),
             case when s.tags is null then '{}' else array(select jsonb_array_elements_text(s.tags::jsonb)) end,
             coalesce(s.metadata::jsonb, '{}'), s.concurrency_key, s.expires_at
      from source s
      on conflict (dedupe_key) where dedupe_key is not null and status in ('READY', 'RUNNING', 'BLOCKED') do nothing
      returning id
    )
    -- A set operation, not a join per row: both sides are small and fresh, and the planner knows neither.
    select array_agg(s.i), array_agg(s.new_id) into v_ordinal, v_id
    from source s where s.new_id in (select n.id from new n);
    return query select o::int, i, true from unnest(v_ordinal, v_id) as u(o, i);
    if cardinality(v_ordinal) = cardinality(v_open) then
      return;
    end if;
    v_open := array(select unnest(v_open) except select unnest(v_ordinal));

    -- A lookup per key and no join: where statistics know no active keys, a join walks all of them instead.
    with holder as materialized (
      select k.i, (select j.id from pqlite.jobs j
                   where j.dedupe_key = k.dedupe_key and j.status in ('READY', 'RUNNING', 'BLOCKED')) as id
      from unnest(pqlite.spread(p_dedupe_key, v_count)) with ordinality as k (dedupe_key, i)
      where cardinality(v_open) = v_count or k.i = any (v_open)
    )
    select array_agg(h.i), array_agg(h.id) into v_ordinal, v_id from holder h where h.id is not null;
    return query select o::int, i, false from unnest(v_ordinal, v_id) as u(o, i);
    v_open := array(select unnest(v_open) except select unnest(v_ordinal));
    if cardinality(v_open) = 0 then
      return;
    end if;
  end loop;
  raise exception 'dedupe keys kept changing hands, or a trigger on the jobs table suppresses jobs'
    using errcode = '40001';
end $$;
