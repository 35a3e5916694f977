-- Fire slots of schedules: enqueue their jobs and update the schedules in one transaction. p_plans is an array of
-- objects, sorted by name so that all callers lock in the same order. Each has the name of a schedule, the revision and
-- handled_through from which the plan was made, and
--
--   slots    [{"slot", "run_after"}, ...], ascending: a job is enqueued for each;
--   missed   how many slots before them are skipped;
--   through  the time up to which all slots are then handled;
--   next_at  when the schedule is due next; null: never;
--   problem  instead of all these: why no plan could be made.
--
-- A schedule that was changed since, fired by another worker, or is locked, is skipped: it has no row in the result. If
-- one fails (a row with invalid values), the others fire, and it is tried again a minute later. Verdicts: FIRED;
-- SKIPPED, because another job of it is active (job_id, with its status in `detail`); HELD, if it begins to wait for
-- that job; MISSED (`count` slots); FAILED (the reason is in `detail`; only if it has changed).
create or replace function pqlite.fire_schedules(p_plans jsonb)
returns table (name text, verdict text, slot timestamptz, job_id bigint, late double precision, count int, detail text)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  s pqlite.schedules;
  v_plan jsonb;
  v_slot timestamptz;
  v_run_after timestamptz;
  v_now timestamptz;
  v_job record;
  v_id bigint;
  v_held boolean;
  v_through timestamptz;
  v_problem text;
  v_told jsonb;  -- the result, unless it is rolled back
  v_lock_timeout text := current_setting('lock_timeout');
begin
  -- A key that another transaction holds must not delay all other schedules.
  perform set_config('lock_timeout', '200ms', true);
  for v_plan in select p from jsonb_array_elements(p_plans) p loop
    select x.* into s from pqlite.schedules x
    where x.name = v_plan ->> 'name' and x.revision = (v_plan ->> 'revision')::bigint
      and x.handled_through = (v_plan ->> 'handled_through')::timestamptz
      and x.paused_at is null and x.disabled_at is null and x.next_at <= clock_timestamp()
    for no key update skip locked;
    continue when not found;
    v_now := clock_timestamp();
    v_problem := v_plan ->> 'problem';
    v_through := s.handled_through;
    v_held := false;
    v_told := '[]';
    if v_problem is null then
      begin
        if (v_plan ->> 'missed')::int > 0 then
          s.missed_slots := s.missed_slots + (v_plan ->> 'missed')::int;
          v_told := v_told || jsonb_build_object('verdict', 'MISSED', 'count', (v_plan ->> 'missed')::int);
        end if;
        for v_slot, v_run_after in
          select p.slot, p.run_after
          from jsonb_to_recordset(v_plan -> 'slots') p (slot timestamptz, run_after timestamptz)
          where p.slot > s.handled_through and p.slot <= v_now order by p.slot
        loop
          v_id := pqlite.schedule_job(s, v_slot, v_run_after);
          if v_id is not null then
            s.fired := s.fired + 1;
            s.last_slot := v_slot;
            s.last_job_id := v_id;
            s.last_fired_at := v_now;
            v_told := v_told || jsonb_build_object('verdict', 'FIRED', 'slot', v_slot, 'job_id', v_id,
                                                   'late', extract(epoch from v_now - v_slot));
          elsif s.overlap = 'queue' then
            v_held := true;
            if s.held_since is null then
              v_told := v_told || jsonb_build_object('verdict', 'HELD', 'slot', v_slot);
            end if;
            exit;
          else
            s.skipped := s.skipped + 1;
            select j.id, j.status, j.attempts, j.run_after into v_job from pqlite.jobs j
            where j.dedupe_key = 'schedule:' || s.name and j.status in ('READY', 'RUNNING', 'BLOCKED');
            v_told := v_told || jsonb_build_object('verdict', 'SKIPPED', 'slot', v_slot, 'job_id', v_job.id,
                                                   'detail', v_job.status);
            if v_job.status = 'READY' and v_job.attempts = 0 and not exists (
                 select from pqlite.workers w
                 where w.dead_at is null and w.lease_until > v_now
                   and (w.info ->> 'job_types' is null or w.info -> 'job_types' ? s.job_type)) then
              v_problem := format('no worker that runs has a handler for job type %L', s.job_type);
            end if;
          end if;
          v_through := v_slot;
        end loop;
        update pqlite.schedules x
        set next_at = case when v_held then v_now + interval '1 s' else (v_plan ->> 'next_at')::timestamptz end,
            handled_through = case when v_held then v_through
                                   else greatest(v_through, (v_plan ->> 'through')::timestamptz) end,
            held_since = case when v_held then coalesce(s.held_since, v_now) end,
            fired = s.fired, skipped = s.skipped, missed_slots = s.missed_slots, last_slot = s.last_slot,
            last_fired_at = s.last_fired_at, last_job_id = s.last_job_id, problem = v_problem
        where x.name = s.name;
      exception
        when lock_not_available or deadlock_detected or serialization_failure then
          update pqlite.schedules x set next_at = v_now + interval '1 s' where x.name = s.name;
          v_told := '[]';
          v_problem := null;
        when others then
          v_problem := sqlerrm;
          v_told := '[]';
          update pqlite.schedules x set next_at = v_now + interval '1 minute', problem = v_problem
          where x.name = s.name;
      end;
    else
      update pqlite.schedules x set next_at = v_now + interval '1 minute', problem = v_problem where x.name = s.name;
    end if;
    if v_problem is distinct from s.problem and v_problem is not null then
      v_told := v_told || jsonb_build_object('verdict', 'FAILED', 'detail', v_problem);
    end if;
    return query
    select s.name, t.verdict, t.slot, t.job_id, t.late, coalesce(t.count, 1), t.detail
    from jsonb_to_recordset(v_told) t (verdict text, slot timestamptz, job_id bigint, late double precision, count int,
                                       detail text);
  end loop;
  perform set_config('lock_timeout', v_lock_timeout, true);
end $$;
