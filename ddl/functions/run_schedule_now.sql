-- Enqueue a job of a schedule now, also of a paused one. The schedule's slots do not change; the job's scheduled_for is
-- now. Returns the job's id and whether it is new: unless overlap is 'allow', and if the schedule has an active job,
-- that job is returned. No row: there is no schedule by that name.
create or replace function pqlite.run_schedule_now(name text) returns table (id bigint, inserted boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_schedule pqlite.schedules;
  v_now timestamptz := clock_timestamp();
begin
  select s.* into v_schedule from pqlite.schedules s where s.name = run_schedule_now.name for no key update;
  if not found then
    return;
  end if;
  for v_try in 1 .. 10 loop
    id := pqlite.schedule_job(v_schedule, v_now, v_now, '{"run_now": true}');
    inserted := id is not null;
    if inserted then
      update pqlite.schedules s set last_job_id = run_schedule_now.id where s.name = v_schedule.name;
    else
      select j.id into id from pqlite.jobs j
      where j.dedupe_key = 'schedule:' || v_schedule.name and j.status in ('READY', 'RUNNING', 'BLOCKED');
    end if;
    if id is not null then
      return next;
      return;
    end if;
  end loop;
  raise exception 'the jobs of schedule % kept changing', quote_literal(v_schedule.name) using errcode = '40001';
end $$;
