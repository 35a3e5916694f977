-- One job with all its columns; no row if there is none.
--
--   select * from pqlite.job(42) \gx
create or replace function pqlite.job(job_id bigint)
returns table (
  id bigint, job_type text, queue text, status text, priority int, payload jsonb, attempts int, max_attempts int,
  run_after timestamptz, timeout_seconds double precision, dedupe_key text, concurrency_key text, tags text[],
  metadata jsonb, progress jsonb, result jsonb, last_error text, errors jsonb, locked_by text, locked_at timestamptz,
  cancel_requested_at timestamptz, waiting_on int, claims int, crashes int, created_at timestamptz,
  updated_at timestamptz, finished_at timestamptz, duration_ms int, expires_at timestamptz)
language plpgsql stable rows 1 security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  return query
  select j.id, j.job_type, j.queue, j.status, j.priority, j.payload, j.attempts, j.max_attempts,
         j.run_after, j.timeout_seconds, j.dedupe_key, j.concurrency_key, j.tags,
         j.metadata, j.progress, j.result, j.last_error, j.errors, j.locked_by, j.locked_at,
         j.cancel_requested_at, j.waiting_on, j.claims, j.crashes, j.created_at,
         j.updated_at, j.finished_at, j.duration_ms, j.expires_at
  from pqlite.jobs j where j.id = job_id;
end $$;
