-- Whether a job with this queue, job type and concurrency key is paused. With p_key null only the first two count.
create or replace function pqlite.paused(p_queue text, p_type text, p_key text) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return exists (
    select from pqlite.pauses p
    where (p.until is null or p.until > clock_timestamp())
      and (p.scope = 'queue' and p.name = p_queue or p.scope = 'job_type' and p.name = p_type
           or p.scope = 'key' and p.name = p_key));
end $$;
