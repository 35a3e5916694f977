-- A worker process announces itself. Called with its advisory lock held, so that nobody finds the lock free by accident.
create or replace function pqlite.register(p_worker text, p_label text, p_lock_key bigint, p_lease interval, p_info jsonb)
returns void
language sql set search_path = pg_catalog, pg_temp as $$
  insert into pqlite.workers (id, label, lock_key, lease_until, info)
  values (p_worker, p_label, p_lock_key, clock_timestamp() + p_lease, p_info);
$$;
