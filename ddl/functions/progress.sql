-- Store the progress of a running job. Returns WRITTEN; BUSY if another transaction has locked the row (it does not
-- wait: the next progress comes soon); FENCED if the claim is no longer current, and nothing was changed.
--
-- No index contains the column, so that the update is HOT while the page has room. It commits asynchronously: progress
-- that a server crash undoes does not matter.
create or replace function pqlite.progress(p_worker text, p_id bigint, p_claims int, p_progress jsonb) returns text
language plpgsql set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
begin
  perform set_config('synchronous_commit', 'off', true);
  perform from pqlite.jobs j
  where j.id = p_id and j.claims = p_claims and j.locked_by = p_worker for no key update skip locked;
  if found then
    update pqlite.jobs j set progress = p_progress, updated_at = clock_timestamp() where j.id = p_id;
    return 'WRITTEN';
  end if;
  return case when exists (select from pqlite.jobs j
                           where j.id = p_id and j.claims = p_claims and j.locked_by = p_worker)
              then 'BUSY' else 'FENCED' end;
end $$;
