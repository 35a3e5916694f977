do $$ begin
  -- Only the old version, without `cancelling`: a call during the drop gets an error.
  if not exists (select from pg_proc p where p.pronamespace = 'pqlite'::regnamespace and p.proname = 'enqueue'
                   and 'cancelling' = any (p.proargnames)) then
    drop function if exists pqlite.enqueue(
      text, jsonb, text, timestamptz, interval, int, int, double precision, text, text[], jsonb, text, timestamptz,
      interval);
  end if;
end $$;
-- Enqueue one job in the caller's transaction. Returns its id and whether it is new: if an active job (READY, RUNNING,
-- BLOCKED) has the same dedupe_key, its id is returned and nothing is written. `cancelling` means that this active job
-- runs and was asked to cancel, so that it will not do the work: wait for its end and enqueue again.
--
--   select * from pqlite.enqueue('summarize', '{"conversation_id": 7}', dedupe_key => 'summarize:conv:7');
--
-- It uses DO NOTHING and then a second statement with a newer snapshot. DO UPDATE would write a row version and lock
-- the active job until the caller's transaction ends, and a single "insert or find" statement finds nothing if the
-- other transaction commits in between. While another open transaction holds the key, it waits, at most for lock_wait
-- (then 55P03).
create or replace function pqlite.enqueue(
  job_type text, payload jsonb default '{}', dedupe_key text default null, run_after timestamptz default null,
  delay interval default null, priority int default 0, max_attempts int default 5,
  timeout_seconds double precision default null, queue text default 'default', tags text[] default '{}',
  metadata jsonb default '{}', concurrency_key text default null, expires_at timestamptz default null,
  lock_wait interval default null, out id bigint, out inserted boolean, out cancelling boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_lock_timeout text := current_setting('lock_timeout');
begin
  if lock_wait is not null then
    lock table pqlite.jobs in row exclusive mode;  -- without a limit: lock_wait applies to the key
    perform set_config('lock_timeout', greatest(1, extract(epoch from lock_wait) * 1000)::int::text, true);
  end if;
  for v_try in 1 .. 10 loop
    insert into pqlite.jobs (job_type, payload, dedupe_key, run_after, priority, max_attempts, timeout_seconds,
                             queue, tags, metadata, concurrency_key, expires_at)
    values (enqueue.job_type, coalesce(enqueue.payload, '{}'), enqueue.dedupe_key,
            -- in UTC, because a day has 23 or 25 hours in some time zones
            (coalesce(enqueue.run_after, clock_timestamp()) at time zone 'UTC' + coalesce(enqueue.delay, interval '0'))
              at time zone 'UTC',
            enqueue.priority, enqueue.max_attempts, enqueue.timeout_seconds, enqueue.queue, enqueue.tags,
            enqueue.metadata, enqueue.concurrency_key, enqueue.expires_at)
    on conflict (dedupe_key) where dedupe_key is not null and status in ('READY', 'RUNNING', 'BLOCKED') do nothing
    returning jobs.id, false into enqueue.id, enqueue.cancelling;
    enqueue.inserted := found;
    if not found then
      select j.id, j.status = 'RUNNING' and j.cancel_requested_at is not null into enqueue.id, enqueue.cancelling
      from pqlite.jobs j
      where j.dedupe_key = enqueue.dedupe_key and j.status in ('READY', 'RUNNING', 'BLOCKED');
    end if;
    exit when enqueue.id is not null or enqueue.dedupe_key is null;
  end loop;
  if enqueue.id is null and enqueue.dedupe_key is null then
    raise exception 'a trigger on the jobs table has suppressed the job';
  end if;
  if enqueue.id is null then
    perform pqlite.unanswered(enqueue.dedupe_key);
  end if;
  if lock_wait is not null then
    perform set_config('lock_timeout', v_lock_timeout, true);
  end if;
end $$;
