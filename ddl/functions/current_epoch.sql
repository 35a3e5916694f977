-- Identifies the time in which the server's sessions, and so their advisory locks, have not been lost. The text changes
-- with a restart (it contains the postmaster's start time), and with a crash of a backend, which ends all sessions, or
-- a failover (both of which empty the unlogged table).
--
-- SECURITY DEFINER, because existing roles have no right on the table, which was added later.
create or replace function pqlite.current_epoch() returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_id uuid;
begin
  select e.id into v_id from pqlite.epoch e;
  if not found then
    insert into pqlite.epoch default values on conflict do nothing;
    select e.id into strict v_id from pqlite.epoch e;  -- inserted by another session
  end if;
  return v_id || ' ' || extract(epoch from pg_postmaster_start_time());
end $$;
