-- Why a job does not run: each reason as a code and a sentence, the first to remove first. No row: there is no such
-- job. The last reason of a job that is due is DUE: if it is the only one, the next free worker starts the job. The row
-- stays locked, if it was not, until the transaction ends.
--
--   select code, reason from pqlite.explain(42);
create or replace function pqlite.explain(job_id bigint) returns table (code text, reason text)
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_job pqlite.jobs;
  v_worker pqlite.workers;
  v_pause pqlite.pauses;
  v_ahead int;
begin
  select * into v_job from pqlite.jobs j where j.id = job_id;
  if not found then
    return;
  end if;
  if v_job.status in ('DONE', 'FAILED', 'CANCELLED') then
    return query select v_job.status, format('it is %s since %s', v_job.status, v_job.finished_at)
      || coalesce(': ' || left(regexp_replace(rtrim(v_job.last_error, E'\n '), '.*\n', ''), 500), '');
    return;
  end if;
  if v_job.status = 'RUNNING' then
    select * into v_worker from pqlite.workers w where w.id = v_job.locked_by;
    return query select 'RUNNING', format('worker %s runs it since %s (attempt %s of %s)',
      v_job.locked_by, v_job.locked_at, v_job.attempts, v_job.max_attempts)
      || coalesce(format(', on %s, process %s', v_worker.info ->> 'host', v_worker.info ->> 'pid'), '');
    if v_worker.id is null then
      return query select 'WORKER_UNKNOWN', 'that worker is not registered: reap_stale takes the job over when it is overdue';
    elsif v_worker.dead_at is not null or v_worker.lease_until < v_now then
      return query select 'WORKER_DEAD', format('that worker is dead or silent: it renewed its lease for the last time at %s',
        v_worker.renewed_at);
    end if;
    if v_job.cancel_requested_at is not null then
      return query select 'CANCEL_REQUESTED', format('it was asked to cancel at %s, and goes on', v_job.cancel_requested_at);
    end if;
    return;
  end if;

  if v_job.status = 'BLOCKED' then
    return query select 'BLOCKED', format('it waits for %s other job%s', v_job.waiting_on,
      case v_job.waiting_on when 1 then '' else 's' end);
  elsif v_job.run_after > v_now then
    return query select 'FUTURE', format('it is due at %s, in %s', v_job.run_after,
      date_trunc('second', v_job.run_after - v_now))
      || case when v_job.attempts > 0 then format(', after %s of %s attempts', v_job.attempts, v_job.max_attempts)
              else '' end;
  end if;
  if v_job.expires_at is not null then
    return query select 'EXPIRES', format('it %s at %s', case when v_job.expires_at > v_now then 'expires'
      else 'expired' end, v_job.expires_at);
  end if;
  for v_pause in
    select * from pqlite.pauses p
    where (p.until is null or p.until > v_now)
      and (p.scope = 'queue' and p.name = v_job.queue or p.scope = 'job_type' and p.name = v_job.job_type
           or p.scope = 'key' and p.name = v_job.concurrency_key)
    order by p.scope
  loop
    return query select 'PAUSED', format('its %s %s is paused since %s', replace(v_pause.scope, '_', ' '), v_pause.name,
      v_pause.paused_at) || coalesce(' by ' || v_pause.paused_by, '') || coalesce(' until ' || v_pause.until, '')
      || coalesce(': ' || v_pause.reason, '');
  end loop;

  if not exists (select from pqlite.workers w where w.dead_at is null and w.lease_until >= v_now) then
    return query select 'NO_WORKER', 'no worker is running';
  elsif not exists (
      select from pqlite.workers w where w.dead_at is null and w.lease_until >= v_now
        and (w.info ->> 'queues' is null or w.info -> 'queues' ? v_job.queue)) then
    return query select 'NO_WORKER_FOR_QUEUE', format('no worker that runs serves its queue, %s', v_job.queue);
  elsif not exists (
      select from pqlite.workers w where w.dead_at is null and w.lease_until >= v_now
        and (w.info ->> 'queues' is null or w.info -> 'queues' ? v_job.queue)
        and (w.info ->> 'job_types' is null or w.info -> 'job_types' ? v_job.job_type)) then
    return query select 'NO_WORKER_FOR_TYPE',
      format('no worker that serves its queue has a handler for its job type, %s', v_job.job_type);
  elsif not exists (
      select from pqlite.workers w where w.dead_at is null and w.lease_until >= v_now
        and (w.info ->> 'queues' is null or w.info -> 'queues' ? v_job.queue)
        and (w.info ->> 'job_types' is null or w.info -> 'job_types' ? v_job.job_type)
        and not pqlite.too_new(v_job.metadata -> 'payload_version', v_job.job_type,
                               coalesce(w.info -> 'payload_versions', '{}'))) then
    return query select 'NO_WORKER_FOR_VERSION', format(
      'no worker that serves its queue knows version %s of its payload', v_job.metadata -> 'payload_version');
  end if;
  if v_job.status <> 'READY' then
    return;
  end if;

  if v_job.crashes > 0 then
    return query select 'SUSPECT', format('%s of its workers died while they held it%s', v_job.crashes,
      case when pqlite.runs_alone(v_job.crashes, v_job.attempts + 1, v_job.max_attempts)
           then ': it runs when a worker runs no other such job' else '' end);
  end if;
  perform from pqlite.jobs j where j.id = job_id for no key update skip locked;
  if not found then
    return query select 'LOCKED', 'a transaction holds a lock on its row: a worker that claims it now, or someone else';
  end if;
  if v_job.run_after <= v_now and v_job.crashes = 0 then
    select count(*) into v_ahead from (
      select from pqlite.jobs j
      where j.status = 'READY' and j.crashes = 0 and j.queue = v_job.queue and j.job_type = v_job.job_type
        and -j.priority = -v_job.priority and (j.run_after, j.id) < (v_job.run_after, v_job.id)
      limit 10001) a;
    if v_ahead > 0 then
      return query select 'BEHIND', format('%s job%s of its queue, type and priority come first',
        case when v_ahead > 10000 then '10,000+' else v_ahead::text end, case v_ahead when 1 then '' else 's' end);
    end if;
  end if;
  if v_job.run_after <= v_now then
    return query select 'DUE', format('it is due since %s', v_job.run_after);
  end if;
end $$;
