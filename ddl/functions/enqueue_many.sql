drop function if exists pqlite.enqueue_many(
  text[], text[], text[], timestamptz[], interval[], int[], int[], double precision[], text[], text[], text[], text[],
  timestamptz[]);
-- Enqueue a batch in the caller's transaction. Returns one row for each job, in any order, with its ordinal. Payloads,
-- tags and metadata are JSON. If an array or an element is null, the row gets the default; an array with one element
-- applies to all rows.
--
--   select * from pqlite.enqueue_many('{mail}', array['{"to": 1}', '{"to": 2}'], p_dedupe_key => '{mail:1,mail:2}');
--
-- `cancelling` means that a row was not inserted because of an active job with the same key (whose id is returned)
-- which runs and was asked to cancel: it will not do the work.
--
-- Rows with keys are inserted in the order of their keys, so that two batches with the same keys cannot deadlock. It is
-- the order of bytes, independent of the database's collation; clients split long lists in that order. If a key occurs
-- twice in a batch, both rows have the same job.
--
-- While another open transaction holds a key, the batch waits, at most for lock_timeout. With p_lock_wait it waits at
-- most that long for the first held key, and hardly longer for further ones. Rows with held keys are then not inserted
-- and returned without an id; the other rows are inserted. (A lock timeout does not tell the key and aborts the whole
-- statement, so the rows are then inserted one by one, each in a subtransaction.)
create or replace function pqlite.enqueue_many(
  p_job_type text[], p_payload text[] default null, p_dedupe_key text[] default null,
  p_run_after timestamptz[] default null, p_delay interval[] default null, p_priority int[] default null,
  p_max_attempts int[] default null, p_timeout_seconds double precision[] default null, p_queue text[] default null,
  p_tags text[] default null, p_metadata text[] default null, p_concurrency_key text[] default null,
  p_expires_at timestamptz[] default null, p_lock_wait interval default null)
returns table (ordinal int, id bigint, inserted boolean, cancelling boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
#variable_conflict use_column
declare
  v_count int := greatest(cardinality(p_job_type), cardinality(p_payload), cardinality(p_dedupe_key));
  v_ids bigint[] := pqlite.draw_ids(v_count);
  v_lock_timeout text := current_setting('lock_timeout');
  v_open bigint[];  -- the ordinals of the rows without a result; null: all
  v_busy bigint[] := '{}';  -- of those whose key another transaction holds
  v_busy_key text;
  v_row record;
  v_rows int;
  v_ordinal bigint[];
  v_id bigint[];
  v_what bigint[];
begin
  if p_lock_wait is not null then
    lock table pqlite.jobs in row exclusive mode;  -- without a limit: p_lock_wait applies to keys
  end if;
  for v_try in 1 .. 10 loop
    if p_lock_wait is null then
      v_rows := pqlite.insert_keyed(
        v_ids, v_open, v_count, p_job_type, p_payload, p_dedupe_key, p_run_after, p_delay, p_priority, p_max_attempts,
        p_timeout_seconds, p_queue, p_tags, p_metadata, p_concurrency_key, p_expires_at);
    else
      perform set_config('lock_timeout', greatest(1, extract(epoch from p_lock_wait) * 1000)::int::text, true);
      begin
        v_rows := pqlite.insert_keyed(
          v_ids, v_open, v_count, p_job_type, p_payload, p_dedupe_key, p_run_after, p_delay, p_priority,
          p_max_attempts, p_timeout_seconds, p_queue, p_tags, p_metadata, p_concurrency_key, p_expires_at);
      exception when lock_not_available then
        v_rows := 0;
        for v_row in
          select k.dedupe_key, k.i from unnest(pqlite.spread(p_dedupe_key, v_count)) with ordinality k (dedupe_key, i)
          where v_open is null or k.i = any (v_open)
          order by k.dedupe_key collate "C", k.i
        loop
          if v_busy_key is null or v_row.dedupe_key is distinct from v_busy_key then
            begin
              v_rows := v_rows + pqlite.insert_keyed(
                v_ids, array[v_row.i], v_count, p_job_type, p_payload, p_dedupe_key, p_run_after, p_delay, p_priority,
                p_max_attempts, p_timeout_seconds, p_queue, p_tags, p_metadata, p_concurrency_key, p_expires_at);
              continue;
            exception when lock_not_available then
              v_busy_key := v_row.dedupe_key;
              perform set_config('lock_timeout', '1', true);  -- further held keys are not waited for
            end;
          end if;
          v_busy := v_busy || v_row.i;
        end loop;
      end;
      perform set_config('lock_timeout', v_lock_timeout, true);
    end if;
    if v_rows = v_count then
      return query select o::int, i, true, false from unnest(v_ids) with ordinality as u (i, o);
      return;
    end if;

    -- A lookup for each key instead of a join: without statistics about active keys a join would scan all of them.
    with answer as materialized (
      select r.i, case
               -- The transaction that holds the key may be about to end its job: wait, as enqueue does.
               when r.i = any (v_busy) then null
               when r.id in (select m.id from pqlite.jobs m where m.id = any (v_ids)) then array[r.id, 1]
               else (select array[j.id, case when j.status = 'RUNNING' and j.cancel_requested_at is not null then -1
                                             else 0 end]
                     from pqlite.jobs j
                     where j.dedupe_key = r.dedupe_key and j.status in ('READY', 'RUNNING', 'BLOCKED')) end as found
      from unnest(v_ids, pqlite.spread(p_dedupe_key, v_count)) with ordinality as r (id, dedupe_key, i)
      where v_open is null or r.i = any (v_open)
    )
    select array_agg(a.i) filter (where a.found is not null), array_agg(a.found[1]) filter (where a.found is not null),
           array_agg(a.found[2]) filter (where a.found is not null),
           array_agg(a.i) filter (where a.found is null and a.i <> all (v_busy)),
           array_agg(a.i) filter (where a.found is null and a.i = any (v_busy))
    into v_ordinal, v_id, v_what, v_open, v_busy
    from answer a;
    return query select o::int, i, w = 1, w = -1 from unnest(v_ordinal, v_id, v_what) as u (o, i, w);
    return query select o::int, null::bigint, false, false from unnest(v_busy) as u (o);
    if v_open is null then
      return;
    end if;
    v_busy := '{}';
    v_busy_key := null;
  end loop;
  perform pqlite.unanswered((pqlite.spread(p_dedupe_key, v_count))[v_open[1]]);
end $$;
