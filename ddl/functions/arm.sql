-- Ask for notifications for the next p_ms milliseconds. Never shortens what another sleeper asked for
-- (a race between two may; the loser then finds its job at its next poll).
create or replace function pqlite.arm(p_ms int) returns void
language plpgsql as $$
declare
  v_until bigint := (extract(epoch from clock_timestamp()) * 1000)::bigint + p_ms;
begin
  if (select w.last_value from pqlite.wake_until w) < v_until then
    perform setval('pqlite.wake_until', v_until);
  end if;
end $$;
