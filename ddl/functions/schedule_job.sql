-- Enqueue the job of a schedule for a slot. Returns its id, or null if another job of the schedule is active and they
-- must not overlap: unless overlap is 'allow', all jobs of a schedule have the same dedupe key. So there are never two
-- active ones, also if one of them is retried by hand.
create or replace function pqlite.schedule_job(
  p_schedule pqlite.schedules, p_slot timestamptz, p_run_after timestamptz, p_metadata jsonb default '{}')
returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_id bigint;
  v_key text := case when p_schedule.overlap <> 'allow' then 'schedule:' || p_schedule.name end;
begin
  insert into pqlite.jobs (job_type, payload, queue, priority, max_attempts, timeout_seconds, tags, concurrency_key,
                           run_after, dedupe_key, metadata)
  values (p_schedule.job_type, p_schedule.payload, p_schedule.queue, p_schedule.priority, p_schedule.max_attempts,
          p_schedule.timeout_seconds, p_schedule.tags, p_schedule.concurrency_key, p_run_after, v_key,
          p_schedule.metadata || p_metadata || jsonb_build_object(
            'schedule', p_schedule.name,
            'scheduled_for', to_char(p_slot at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')))
  on conflict (dedupe_key) where dedupe_key is not null and status in ('READY', 'RUNNING', 'BLOCKED') do nothing
  returning id into v_id;
  return v_id;
end $$;
