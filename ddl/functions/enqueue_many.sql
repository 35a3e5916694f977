-- Enqueue a batch in the caller's transaction; one row out per row in, in any order, told apart by its ordinal.
-- The arrays are of equal length. Keyed rows are inserted in the order of their keys: one lock order for all callers,
-- so that two batches with the same keys cannot deadlock. It is the order of bytes, whatever the database's collation:
-- clients cut long lists into batches by it. A key that comes twice in a batch resolves to one job.
create or replace function pqlite.enqueue_many(
  p_job_type text[], p_payload text[], p_dedupe_key text[], p_run_after timestamptz[], p_delay interval[],
  p_priority int[], p_max_attempts int[], p_timeout_seconds double precision[], p_queue text[], p_tags text[],
  p_metadata text[], p_concurrency_key text[], p_expires_at timestamptz[])
returns table (ordinal int, id bigint, inserted boolean)
language plpgsql set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
#variable_conflict use_column
declare
  v_open int[] := array(select i from generate_subscripts(p_job_type, 1) i);
  v_ordinal int[];
  v_id bigint[];
  v_now timestamptz := clock_timestamp();
begin
  for v_try in 1 .. 10 loop
    with source as materialized (
      select o.i, nextval('pqlite.jobs_id_seq') as new_id
      from (select i from unnest(v_open) i order by p_dedupe_key[i] collate "C", i) o
    ), new as (
      insert into pqlite.jobs (id, job_type, payload, dedupe_key, run_after, priority, max_attempts, timeout_seconds,
                               queue, tags, metadata, concurrency_key, expires_at)
      select s.new_id, p_job_type[s.i], p_payload[s.i]::jsonb, p_dedupe_key[s.i],
             (coalesce(p_run_after[s.i], v_now) at time zone 'UTC' + coalesce(p_delay[s.i], interval '0'))
               at time zone 'UTC',
             p_priority[s.i], p_max_attempts[s.i], p_timeout_seconds[s.i], p_queue[s.i],
             array(select jsonb_array_elements_text(p_tags[s.i]::jsonb)), p_metadata[s.i]::jsonb,
             p_concurrency_key[s.i], p_expires_at[s.i]
      from source s
      on conflict (dedupe_key) where dedupe_key is not null and status in ('READY', 'RUNNING', 'BLOCKED') do nothing
      returning id
    )
    -- A set operation, not a join per row: both sides are small and fresh, and the planner knows neither.
    select array_agg(s.i), array_agg(s.new_id) into v_ordinal, v_id
    from source s where s.new_id in (select n.id from new n);
    return query select o, i, true from unnest(v_ordinal, v_id) as u(o, i);
    if cardinality(v_ordinal) = cardinality(v_open) then
      return;
    end if;
    v_open := array(select i from unnest(v_open) i except select o from unnest(v_ordinal) o);

    -- A lookup per key and no join: where statistics know no active keys, a join walks all of them instead.
    with holder as materialized (
      select i, (select j.id from pqlite.jobs j
                 where j.dedupe_key = p_dedupe_key[i] and j.status in ('READY', 'RUNNING', 'BLOCKED')) as id
      from unnest(v_open) i
    )
    select array_agg(h.i), array_agg(h.id) into v_ordinal, v_id from holder h where h.id is not null;
    return query select o, i, false from unnest(v_ordinal, v_id) as u(o, i);
    v_open := array(select i from unnest(v_open) i except select o from unnest(v_ordinal) o);
    if cardinality(v_open) = 0 then
      return;
    end if;
  end loop;
  raise exception 'dedupe keys kept changing hands' using errcode = '40001';
end $$;
