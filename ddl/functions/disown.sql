-- Make jobs READY again that a worker holds but does not know of, because the answer to its claim was lost. p_known
-- contains all jobs that it knows of and has claimed up to p_until (by this server's clock); jobs claimed later are not
-- touched, so the call may arrive late. Only claims of the interval p_since before p_until are looked at.
-- One of the six functions in which jobs end; the others: settle, complete, cancel, take_over, expire.
create or replace function pqlite.disown(p_worker text, p_known bigint[], p_since interval, p_until timestamptz)
returns setof bigint
language plpgsql set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
begin
  return query
  update pqlite.jobs j
  set status = case when j.cancel_requested_at is null then 'READY' else 'CANCELLED' end,
      finished_at = case when j.cancel_requested_at is not null then v_now end,
      attempts = j.attempts - 1, locked_by = null, locked_at = null, updated_at = v_now
  where j.id = any (array(
    select r.id from pqlite.jobs r
    where r.status = 'RUNNING' and r.locked_by = p_worker and r.locked_at > p_until - p_since and r.locked_at <= p_until
      and r.id <> all (p_known)
    for no key update skip locked))
  returning j.id;
  if found then
    perform pqlite.wake(p_payload => 'rewind');
  end if;
end $$;
