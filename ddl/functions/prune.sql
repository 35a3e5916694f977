do $$ begin
  -- Only the old version, without `again_in`: a call during the drop gets an error.
  if not exists (select from pg_proc p where p.pronamespace = 'pqlite'::regnamespace and p.proname = 'prune'
                   and 'again_in' = any (p.proargnames)) then
    drop function if exists pqlite.prune(interval, interval, bigint, int);
  end if;
end $$;
-- Delete one chunk of finished jobs that are older than their retention (null keeps them for ever). DONE rows are found
-- by a scan of the primary key from p_cursor on; FAILED and CANCELLED rows have an index by age. Returns the cursor for
-- the next call (null: younger jobs begin here), and the number of deleted rows. Only one session prunes at a time;
-- calls in others do nothing.
--
-- `again_in` says for how long no row between p_cursor and next_cursor can be due for deletion, so that a caller that
-- remembers it need not read again what stays: until the earliest DONE row is old enough; with rows that wait or run,
-- p_done from now or from when they are due; p_done or an hour at most, because jobs are retried, and made due, by hand.
create or replace function pqlite.prune(
  p_done interval, p_failed interval, p_cursor bigint, p_chunk int, out next_cursor bigint, out deleted int,
  out again_in interval)
language plpgsql set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
  v_now timestamptz := clock_timestamp();
  v_ids bigint[];
  v_seen int;
  v_oldest timestamptz;
  v_done int;
begin
  deleted := 0;
  if not pg_try_advisory_xact_lock(hashtextextended('pqlite.prune', 0)) then
    return;
  end if;
  if p_failed is not null then
    delete from pqlite.jobs j where j.id = any (array(
      select f.id from pqlite.jobs f
      where f.status in ('FAILED', 'CANCELLED') and f.finished_at < v_now - p_failed
      order by f.finished_at limit p_chunk for update skip locked));
    get diagnostics deleted = row_count;
  end if;
  if p_done is not null then
    select count(*), max(w.id), min(w.created_at),
           array_agg(w.id) filter (where w.status = 'DONE' and w.finished_at < v_now - p_done),
           least(min(case when w.status = 'DONE' then w.finished_at - v_now
                          when w.status = 'READY' then greatest(w.run_after - v_now, '0')
                          when w.status in ('RUNNING', 'BLOCKED') then '0' end
                     + p_done) filter (where w.status <> 'DONE' or w.finished_at >= v_now - p_done),
                 greatest(p_done, '1 hour'))
    into v_seen, next_cursor, v_oldest, v_ids, again_in
    from (select j.id, j.status, j.finished_at, j.created_at, j.run_after from pqlite.jobs j
          where j.id > coalesce(p_cursor, 0) order by j.id limit p_chunk) w;
    if v_seen < p_chunk or v_oldest > v_now - p_done then
      next_cursor := null;
    end if;
    if v_ids is not null then
      delete from pqlite.jobs j where j.id = any (array(
        select d.id from pqlite.jobs d
        where d.id = any (v_ids) and d.status = 'DONE' and d.finished_at < v_now - p_done
        order by d.id for update skip locked));
      get diagnostics v_done = row_count;
      if v_done < cardinality(v_ids) then
        again_in := '0';  -- some are locked
      end if;
      deleted := deleted + v_done;
    end if;
  end if;
end $$;
