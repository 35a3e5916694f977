-- Declare workers dead and take over the jobs that they held. Every process may call this at any time.
--
-- A worker is dead if its lease has ended, or if its advisory lock is free (its process has ended and the kernel has
-- closed its sockets) and its last renewal is over 8 s old. The age of a job does not matter.
--
-- A worker that calls this (p_judge) must itself have renewed without a gap for 8 s. After an outage all leases may
-- have ended, and in these 8 s every living worker can renew. (Renewals of other workers count for a new one:
-- register.sql.) These 8 s must lie in the present epoch, because a server restart frees all locks, perhaps so quickly
-- that no renewal fails. A worker considers only leases, not locks, if it has no lock (behind a pooler in transaction
-- mode), or if its own lock is free or held by a session that is younger than its latest renewal: then a network outage
-- has ended its session, and perhaps the sessions of others that have not yet connected again.
--
-- A lock is tested by a shared try-lock of the transaction: tests do not conflict, and the lock ends with the
-- statement.
create or replace function pqlite.reap(p_judge text, p_limit int default 500)
returns table (id bigint, job_type text, queue text, status text, attempts int, locked_by text)
language plpgsql set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_worker text;
  v_ids bigint[];
  v_left int := p_limit;
  v_judge pqlite.workers;
  v_by_locks boolean;
begin
  select w.* into v_judge from pqlite.workers w
  where w.id = p_judge and w.dead_at is null
    and w.steady_since < v_now - interval '8 s' and w.renewed_at > v_now - interval '6 s'
    and (w.lock_key is null or w.epoch = pqlite.current_epoch());
  if found then
    v_by_locks := v_judge.lock_key is not null
      and exists (select from pqlite.workers w
                  where w.dead_at is null and w.renewed_at < v_now - interval '8 s' and w.id <> p_judge)
      and exists (
        select from pg_locks l cross join lateral pg_stat_get_activity(l.pid) a
        where l.locktype = 'advisory' and l.granted and l.objsubid = 1
          and l.database = (select d.oid from pg_database d where d.datname = current_database())
          and (l.classid::bigint << 32 | l.objid::bigint) = v_judge.lock_key
          -- Null if the session belongs to another role, which is possible with listen_dsn.
          and coalesce(a.backend_start, '-infinity') <= v_judge.renewed_at);
    update pqlite.workers w set dead_at = v_now
    where w.dead_at is null and w.id = any (array(
      select s.id from pqlite.workers s
      where s.dead_at is null and s.renewed_at < v_now - interval '8 s' and s.id <> p_judge
        and case when s.lease_until < v_now then true
                 when s.lock_key is null or not v_by_locks then false
                 else pg_try_advisory_xact_lock_shared(s.lock_key) end
      for no key update skip locked));
  end if;

  for v_worker in select w.id from pqlite.workers w where w.dead_at is not null order by w.dead_at, w.id loop
    exit when v_left <= 0;
    v_ids := array(
      select j.id from pqlite.jobs j where j.status = 'RUNNING' and j.locked_by = v_worker
      limit v_left for no key update skip locked);
    v_left := v_left - cardinality(v_ids);
    if cardinality(v_ids) > 0 then
      return query select * from pqlite.take_over(v_ids, 'worker died');
    elsif not exists (select from pqlite.jobs j where j.status = 'RUNNING' and j.locked_by = v_worker) then
      delete from pqlite.workers w where w.id = v_worker and w.dead_at < v_now - interval '1 hour';
    end if;
  end loop;
  if v_left < p_limit then
    perform pqlite.wake(p_payload => 'rewind');
  end if;
end $$;
