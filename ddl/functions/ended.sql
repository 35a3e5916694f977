-- Which of these jobs have ended: a row for each that is DONE, FAILED or CANCELLED, and a row with status null for each
-- id that no job has. No row for jobs that wait or run. For clients that poll.
--
--   select * from pqlite.ended('{41,42}')
create or replace function pqlite.ended(job_ids bigint[])
returns table (id bigint, status text, result jsonb, last_error text, errors jsonb)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
#variable_conflict use_column
begin
  return query
  select w.id, j.status, j.result, j.last_error, j.errors
  from unnest(job_ids) w(id)
  left join pqlite.jobs j on j.id = w.id
  where j.id is null or j.status in ('DONE', 'FAILED', 'CANCELLED');
end $$;
