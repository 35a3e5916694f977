-- Enqueue a batch without dedupe keys in the caller's transaction. Returns the ids in the order given. The arguments
-- are those of enqueue_many, which costs twice as much because it handles duplicates.
create or replace function pqlite.enqueue_keyless(
  p_job_type text[], p_payload text[] default null, p_run_after timestamptz[] default null,
  p_delay interval[] default null, p_priority int[] default null, p_max_attempts int[] default null,
  p_timeout_seconds double precision[] default null, p_queue text[] default null, p_tags text[] default null,
  p_metadata text[] default null, p_concurrency_key text[] default null, p_expires_at timestamptz[] default null)
returns bigint[]
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_count int := greatest(cardinality(p_job_type), cardinality(p_payload));
  v_ids bigint[] := pqlite.draw_ids(v_count);
  v_now timestamptz := clock_timestamp();
  v_inserted bigint;
begin
  -- unnest instead of subscripts: to find the n-th text of an array, the server reads all texts before it.
  insert into pqlite.jobs (id, job_type, payload, run_after, priority, max_attempts, timeout_seconds, queue, tags,
                           metadata, concurrency_key, expires_at)
  select r.id, r.job_type, coalesce(r.payload::jsonb, '{}'),
         (coalesce(r.run_after, v_now) at time zone 'UTC' + coalesce(r.delay, interval '0')) at time zone 'UTC',
         coalesce(r.priority, 0), coalesce(r.max_attempts, 5), r.timeout_seconds, coalesce(r.queue, 'default'),
         case when r.tags is null then '{}' else array(select jsonb_array_elements_text(r.tags::jsonb)) end,
         coalesce(r.metadata::jsonb, '{}'), r.concurrency_key, r.expires_at
  from unnest(v_ids, pqlite.spread(p_job_type, v_count), pqlite.spread(p_payload, v_count),
              pqlite.spread(p_run_after, v_count), pqlite.spread(p_delay, v_count),
              pqlite.spread(p_priority, v_count), pqlite.spread(p_max_attempts, v_count),
              pqlite.spread(p_timeout_seconds, v_count), pqlite.spread(p_queue, v_count),
              pqlite.spread(p_tags, v_count), pqlite.spread(p_metadata, v_count),
              pqlite.spread(p_concurrency_key, v_count), pqlite.spread(p_expires_at, v_count))
       as r (id, job_type, payload, run_after, delay, priority, max_attempts, timeout_seconds, queue, tags, metadata,
             concurrency_key, expires_at);
  get diagnostics v_inserted = row_count;
  if v_inserted <> v_count then
    raise exception 'a trigger on the jobs table has suppressed % of % jobs', v_count - v_inserted, v_count;
  end if;
  return v_ids;
end $$;
