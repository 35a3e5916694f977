-- Notify sleeping workers that serve one of p_queues, or all sleeping workers (null). The payload is p_payload
-- ('rewind': jobs may be due behind the workers' watermarks), else the queues as a JSON array, else empty.
--
-- NOTIFY takes a cluster-wide lock at commit and wakes all listeners, so a busy queue must not use it. Sleeping workers
-- say so in registers (arm.sql); if there are none, this function only makes one comparison.
-- A transaction that has notified cannot be prepared (two-phase commit): `set local pqlite_settings.notify = off`
-- before it enqueues. The workers then find its jobs by polling.
create or replace function pqlite.wake(p_queues text[] default null, p_payload text default '') returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_now bigint := (extract(epoch from clock_timestamp()) * 1000)::bigint;
begin
  if (select r.last_value from pqlite.wake_until r) < v_now
     or current_setting('pqlite_settings.notify', true) = 'off' then
    return;
  end if;
  if p_queues is null or (select r.last_value from pqlite.wake_all r) >= v_now or exists (
       select from unnest(p_queues) q where case hashtext(q) & 7
         when 0 then (select r.last_value from pqlite.wake_0 r)
         when 1 then (select r.last_value from pqlite.wake_1 r)
         when 2 then (select r.last_value from pqlite.wake_2 r)
         when 3 then (select r.last_value from pqlite.wake_3 r)
         when 4 then (select r.last_value from pqlite.wake_4 r)
         when 5 then (select r.last_value from pqlite.wake_5 r)
         when 6 then (select r.last_value from pqlite.wake_6 r)
         else (select r.last_value from pqlite.wake_7 r) end >= v_now) then
    if p_payload = '' and octet_length(to_json(p_queues)::text) < 7900 then  -- NOTIFY takes 8000
      p_payload := to_json(p_queues)::text;
    end if;
    perform pg_notify('pqlite_wake', p_payload);
  end if;
end $$;
