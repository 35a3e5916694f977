-- Delete the row of a worker that stops and return true. If it still holds jobs, mark it dead instead and return false:
-- then the next reaper takes these jobs over.
create or replace function pqlite.unregister(p_worker text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  -- Wait for a claim in progress; a later claim finds no row and fails.
  perform from pqlite.workers w where w.id = p_worker for update;
  if exists (select from pqlite.jobs j where j.status = 'RUNNING' and j.locked_by = p_worker) then
    update pqlite.workers w set dead_at = clock_timestamp() where w.id = p_worker and w.dead_at is null;
    perform pqlite.wake(p_payload => 'rewind');
    return false;
  end if;
  delete from pqlite.workers w where w.id = p_worker;
  return true;
end $$;
