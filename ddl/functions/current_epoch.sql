-- Returns the same text for as long as the server keeps its sessions, and with them their advisory locks: another one
-- after a restart (the time of the postmaster's start), after a crash of one backend, which ends all sessions but not
-- the postmaster, and after a failover (both empty the unlogged table).
--
-- SECURITY DEFINER, so that roles need no right on the table, which is younger than theirs may be.
create or replace function pqlite.current_epoch() returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_id uuid;
begin
  select e.id into v_id from pqlite.epoch e;
  if not found then
    insert into pqlite.epoch default values on conflict do nothing;
    select e.id into strict v_id from pqlite.epoch e;  -- another session's, if that was first
  end if;
  return v_id || ' ' || extract(epoch from pg_postmaster_start_time());
end $$;
