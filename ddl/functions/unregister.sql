-- A worker's last word. True when its row is gone; while jobs still name it, the row stays, marked dead, and any
-- reaper takes the jobs over at once.
create or replace function pqlite.unregister(p_worker text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  -- Wait for a claim on its way; one that comes later finds the row gone.
  perform from pqlite.workers w where w.id = p_worker for update;
  if exists (select from pqlite.jobs j where j.status = 'RUNNING' and j.locked_by = p_worker) then
    update pqlite.workers w set dead_at = clock_timestamp() where w.id = p_worker and w.dead_at is null;
    perform pqlite.wake(p_payload => 'rewind');
    return false;
  end if;
  delete from pqlite.workers w where w.id = p_worker;
  return true;
end $$;
