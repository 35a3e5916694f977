-- Ask for notifications about new jobs in p_queues (null: in any) for the next p_ms milliseconds. Returns the server's
-- time. Does not shorten the time that another sleeping worker asked for. (If two workers race, it may be shortened;
-- the worker then finds its job with its next poll.)
create or replace function pqlite.arm(p_ms int, p_queues text[] default null) returns timestamptz
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_now timestamptz := clock_timestamp();
  v_until bigint := (extract(epoch from v_now) * 1000)::bigint + p_ms;
  v_hashes int[];
begin
  -- If it is lost in a crash, a job is found by the next poll.
  perform set_config('synchronous_commit', 'off', true);
  -- The register that all triggers read is set last, after the others.
  if p_queues is null then
    perform setval('pqlite.wake_all', v_until) from pqlite.wake_all r where r.last_value < v_until;
  else
    v_hashes := array(select distinct hashtext(q) & 7 from unnest(p_queues) q);
    perform setval('pqlite.wake_0', v_until) from pqlite.wake_0 r where 0 = any (v_hashes) and r.last_value < v_until;
    perform setval('pqlite.wake_1', v_until) from pqlite.wake_1 r where 1 = any (v_hashes) and r.last_value < v_until;
    perform setval('pqlite.wake_2', v_until) from pqlite.wake_2 r where 2 = any (v_hashes) and r.last_value < v_until;
    perform setval('pqlite.wake_3', v_until) from pqlite.wake_3 r where 3 = any (v_hashes) and r.last_value < v_until;
    perform setval('pqlite.wake_4', v_until) from pqlite.wake_4 r where 4 = any (v_hashes) and r.last_value < v_until;
    perform setval('pqlite.wake_5', v_until) from pqlite.wake_5 r where 5 = any (v_hashes) and r.last_value < v_until;
    perform setval('pqlite.wake_6', v_until) from pqlite.wake_6 r where 6 = any (v_hashes) and r.last_value < v_until;
    perform setval('pqlite.wake_7', v_until) from pqlite.wake_7 r where 7 = any (v_hashes) and r.last_value < v_until;
  end if;
  perform setval('pqlite.wake_until', v_until) from pqlite.wake_until r where r.last_value < v_until;
  return v_now;
end $$;
