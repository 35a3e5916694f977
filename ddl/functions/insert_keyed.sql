-- The INSERT of enqueue_many: inserts the rows of a batch whose ordinals are in p_only (null: all), in the order of
-- their keys, with the ids in p_ids. Returns how many were inserted; the others have an active job with the same key.
create or replace function pqlite.insert_keyed(
  p_ids bigint[], p_only bigint[], p_count int, p_job_type text[], p_payload text[], p_dedupe_key text[],
  p_run_after timestamptz[], p_delay interval[], p_priority int[], p_max_attempts int[],
  p_timeout_seconds double precision[], p_queue text[], p_tags text[], p_metadata text[], p_concurrency_key text[],
  p_expires_at timestamptz[])
returns int
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_now timestamptz := clock_timestamp();
  v_rows int;
begin
  -- unnest instead of subscripts: to find the n-th text of an array, the server reads all texts before it.
  insert into pqlite.jobs (id, job_type, payload, dedupe_key, run_after, priority, max_attempts, timeout_seconds, queue,
                           tags, metadata, concurrency_key, expires_at)
  select r.id, r.job_type, coalesce(r.payload::jsonb, '{}'), r.dedupe_key,
         (coalesce(r.run_after, v_now) at time zone 'UTC' + coalesce(r.delay, interval '0')) at time zone 'UTC',
         coalesce(r.priority, 0), coalesce(r.max_attempts, 5), r.timeout_seconds, coalesce(r.queue, 'default'),
         case when r.tags is null then '{}' else array(select jsonb_array_elements_text(r.tags::jsonb)) end,
         coalesce(r.metadata::jsonb, '{}'), r.concurrency_key, r.expires_at
  from unnest(p_ids, pqlite.spread(p_job_type, p_count), pqlite.spread(p_payload, p_count),
              pqlite.spread(p_dedupe_key, p_count), pqlite.spread(p_run_after, p_count),
              pqlite.spread(p_delay, p_count), pqlite.spread(p_priority, p_count),
              pqlite.spread(p_max_attempts, p_count), pqlite.spread(p_timeout_seconds, p_count),
              pqlite.spread(p_queue, p_count), pqlite.spread(p_tags, p_count), pqlite.spread(p_metadata, p_count),
              pqlite.spread(p_concurrency_key, p_count), pqlite.spread(p_expires_at, p_count)) with ordinality
       as r (id, job_type, payload, dedupe_key, run_after, delay, priority, max_attempts, timeout_seconds, queue, tags,
             metadata, concurrency_key, expires_at, i)
  where p_only is null or r.i = any (p_only)
  order by r.dedupe_key collate "C", r.i
  on conflict (dedupe_key) where dedupe_key is not null and status in ('READY', 'RUNNING', 'BLOCKED') do nothing;
  get diagnostics v_rows = row_count;
  return v_rows;
end $$;
