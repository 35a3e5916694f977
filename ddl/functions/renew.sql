-- Renew a worker's lease. Returns its jobs that were asked to cancel.
-- PQ001: the worker was declared dead, or its row is gone; it must cancel its handlers and register again.
-- p_lock_key is null while it does not hold its advisory lock: then only its lease shows that it is alive.
create or replace function pqlite.renew(p_worker text, p_lease interval, p_lock_key bigint)
returns table (id bigint, claims int)
language plpgsql set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_connected timestamptz := (select a.backend_start from pg_stat_get_activity(pg_backend_pid()) a);
  v_epoch text := pqlite.current_epoch();
begin
  update pqlite.workers w
  set lease_until = v_now + p_lease, renewed_at = v_now, lock_key = p_lock_key, epoch = v_epoch,
      -- After a gap, and for a worker with a lock also after a new epoch or a new connection: see reap.sql. (Without a
      -- lock, each renewal may use another connection of a pooler.)
      steady_since = case when v_now - w.renewed_at > interval '6 s'
                            or p_lock_key is not null and (w.lock_key is null or w.renewed_at < v_connected
                                                           or w.epoch is distinct from v_epoch) then v_now
                          else w.steady_since end
  where w.id = p_worker and w.dead_at is null;
  if not found then
    raise exception 'worker % was declared dead', p_worker using errcode = 'PQ001';
  end if;
  return query
  select j.id, j.claims from pqlite.jobs j
  where j.status = 'RUNNING' and j.locked_by = p_worker and j.cancel_requested_at is not null;
end $$;
