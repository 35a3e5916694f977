-- Register a worker. It must hold its advisory lock already, or others could find the lock free.
--
-- A worker may declare others dead (reap.sql) after it has renewed its lease for 8 s without a gap, which shows that
-- the server could be reached. Renewals of other workers show the same. So a new worker inherits `steady_since` from
-- the worker with the latest renewal, alive or dead; otherwise no dead worker would be noticed while every process is
-- killed within 8 s. It does not inherit
-- * from another epoch: a restart frees all locks, and the living workers need 8 s to take them again;
-- * from workers without a lock, which are behind a pooler or have just lost their connection;
-- * if the latest renewal is more than 4 s old: a worker that renewed 3 s before a network outage must have a second to
--   renew after the outage before its 8 s are over.
create or replace function pqlite.register(p_worker text, p_label text, p_lock_key bigint, p_lease interval, p_info jsonb)
returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_now timestamptz := clock_timestamp();
  v_epoch text := pqlite.current_epoch();
begin
  insert into pqlite.workers (id, label, lock_key, started_at, renewed_at, steady_since, epoch, lease_until, info)
  select p_worker, p_label, p_lock_key, v_now, v_now, coalesce(min(w.steady_since), v_now), v_epoch, v_now + p_lease, p_info
  from pqlite.workers w
  where p_lock_key is not null and w.lock_key is not null and w.epoch = v_epoch and w.renewed_at > v_now - interval '4 s';
end $$;
