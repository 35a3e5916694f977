-- Notify sleeping workers, if there are any. p_payload 'rewind' says that jobs may be due behind their watermarks.
--
-- NOTIFY takes a lock of the whole cluster at commit, so a busy queue must not use it: workers that sleep say so in
-- the register (arm.sql), everybody else finds it in the past.
create or replace function pqlite.wake(p_payload text default '') returns void
language plpgsql as $$
begin
  if (select w.last_value from pqlite.wake_until w) >= (extract(epoch from clock_timestamp()) * 1000)::bigint then
    perform pg_notify('pqlite_wake', p_payload);
  end if;
end $$;
