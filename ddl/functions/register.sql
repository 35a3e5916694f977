-- A worker process announces itself. Called with its advisory lock held, so that nobody finds the lock free by accident.
--
-- It may judge others (reap.sql) after 8 s of renewals without a gap. If other workers have renewed until now, alive or
-- dead by now, theirs count for it: each renewal shows that the server could be reached, whoever made it. Otherwise no
-- dead worker would be noticed while every process is killed within 8 s. Not past an epoch: a restart frees all locks,
-- and the workers that live need the 8 s to take theirs again. Nor from workers without a lock: those are behind a
-- pooler, or have just lost their connection. And not past more than 4 s: a worker that renewed 3 s before an outage of
-- the network shall have a second to renew after it, before its 8 s are over.
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
