-- Make a job DONE in the caller's transaction: the caller's writes and DONE are committed together, or neither is.
-- PQ001: the claim is no longer current; PQ002: the job was asked to cancel. After both the caller must roll back.
-- One of the six functions in which jobs end; the others: settle, cancel, take_over, disown, expire.
create or replace function pqlite.complete(p_worker text, p_id bigint, p_claims int, p_result jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
  v_now timestamptz := clock_timestamp();
  v_cancelled boolean;
begin
  -- The job's row stays locked until the commit, so the server must notice quickly if this client's host is lost.
  perform set_config('tcp_keepalives_idle', '10', true), set_config('tcp_keepalives_interval', '5', true),
          set_config('tcp_keepalives_count', '3', true);
  select j.cancel_requested_at is not null into v_cancelled from pqlite.jobs j
  where j.id = p_id and j.claims = p_claims and j.locked_by = p_worker for no key update;
  if not found then
    raise exception 'job % is no longer held by %', p_id, p_worker using errcode = 'PQ001';
  elsif v_cancelled then
    raise exception 'job % was asked to cancel', p_id using errcode = 'PQ002';
  end if;
  update pqlite.jobs j
  set status = 'DONE', result = p_result, finished_at = v_now, last_error = null,
      duration_ms = least(extract(epoch from v_now - j.locked_at) * 1000, 2147483647)::int,
      locked_by = null, locked_at = null, updated_at = v_now
  where j.id = p_id;
end $$;
