-- Ask for notifications for the next p_ms milliseconds. Never shortens what another sleeper asked for
-- (a race between two may; the loser then finds its job at its next poll). Returns the server's time.
create or replace function pqlite.arm(p_ms int) returns timestamptz
language plpgsql as $$
declare
  v_now timestamptz := clock_timestamp();
  v_until bigint := (extract(epoch from v_now) * 1000)::bigint + p_ms;
begin
  -- Lost in a crash, it costs a poll: not worth waiting for the disk.
  perform set_config('synchronous_commit', 'off', true);
  if (select w.last_value from pqlite.wake_until w) < v_until then
    perform setval('pqlite.wake_until', v_until);
  end if;
  return v_now;
end $$;
