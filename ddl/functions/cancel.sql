-- Cancel a job. A waiting one is CANCELLED at once; a RUNNING one is asked to stop (its worker is told at once, or
-- at the next renewal of its lease) and becomes CANCELLED unless it is DONE first. A finished one is not changed.
-- Returns the status after the call, 'REQUESTED' for a RUNNING one, null if there is no such job.
-- One of the six functions in which jobs end; the others: settle, complete, take_over, disown, expire.
create or replace function pqlite.cancel(job_id bigint) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_status text;
begin
  select j.status into v_status from pqlite.jobs j where j.id = job_id for no key update;
  if v_status in ('READY', 'BLOCKED') then
    update pqlite.jobs j set status = 'CANCELLED', finished_at = clock_timestamp(), updated_at = clock_timestamp()
    where j.id = job_id;
    return 'CANCELLED';
  elsif v_status = 'RUNNING' then
    update pqlite.jobs j
    set cancel_requested_at = coalesce(j.cancel_requested_at, clock_timestamp()), updated_at = clock_timestamp()
    where j.id = job_id;
    if current_setting('pqlite_settings.notify', true) is distinct from 'off' then  -- see wake.sql
      perform pg_notify('pqlite_wake', 'cancel');
    end if;
    return 'REQUESTED';
  end if;
  return v_status;
end $$;
