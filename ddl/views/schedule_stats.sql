-- The state of each schedule: its latest slot and job, the next slot, and the problem if it does not work. Payloads are
-- not shown.
call pqlite.replace_view('schedule_stats', $view$
  select s.name, s.job_type, coalesce(s.cron, 'every ' || s.every) as timing, s.timezone,
         case when s.paused_at is not null then 'paused' when s.disabled_at is not null then 'disabled'
              when s.problem is not null then 'failing' when s.held_since is not null then 'held'
              else 'active' end as state,
         s.next_at, s.last_slot, s.last_job_id, j.status as last_job_status,
         extract(epoch from s.last_fired_at - s.last_slot)::double precision as lateness_seconds,
         s.fired, s.skipped, s.missed_slots,
         coalesce(s.problem,
                  case when j.status = 'FAILED' then 'its latest job failed: '
                    || left(regexp_replace(rtrim(j.last_error, E'\n '), '.*\n', ''), 500) end) as problem,
         s.defined_in
  from pqlite.schedules s left join pqlite.jobs j on j.id = s.last_job_id
$view$);
