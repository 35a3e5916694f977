-- Run a job again, now. A finished job becomes READY with at least one attempt left and crashes = 0; a job that waits
-- for a later time becomes due. An expires_at that has passed is removed. A RUNNING or BLOCKED one is not changed.
-- Returns the status before the call. 23505: a newer active job holds its dedupe_key.
create or replace function pqlite.retry(job_id bigint) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_status text;
begin
  select j.status into v_status from pqlite.jobs j where j.id = job_id for no key update;
  if v_status in ('READY', 'DONE', 'FAILED', 'CANCELLED') then
    update pqlite.jobs j
    set status = 'READY', run_after = clock_timestamp(), updated_at = clock_timestamp(), crashes = 0,
        max_attempts = greatest(j.max_attempts, j.attempts + 1), finished_at = null, cancel_requested_at = null,
        expires_at = case when j.expires_at > clock_timestamp() then j.expires_at end
    where j.id = job_id;
    perform pqlite.wake();
  end if;
  return v_status;
end $$;
