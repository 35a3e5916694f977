-- Whether a queue, job type or key is paused. Every claim asks this once: only if one is, the jobs are checked by
-- paused.sql. SECURITY DEFINER, because roles that claim may have no right on the table, which was added later.
create or replace function pqlite.any_pause() returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return exists (select from pqlite.pauses p where p.until is null or p.until > clock_timestamp());
end $$;
