-- Change a schedule. Returns whether there is one by that name. Slots before the change do not fire any more. A
-- schedule that code defines keeps the change until its code changes.
--
--   select pqlite.change_schedule('nightly', '{"cron": "30 4 * * *"}');
--   select pqlite.change_schedule('nightly', '{"cron": null, "every": "1 hour"}');
create or replace function pqlite.change_schedule(name text, changes jsonb) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_row pqlite.schedules;
begin
  select s.* into v_row from pqlite.schedules s where s.name = change_schedule.name for no key update;
  if not found then
    return false;
  end if;
  v_row := pqlite.defined_schedule(v_row, changes);
  update pqlite.schedules s
  set job_type = v_row.job_type, payload = v_row.payload, queue = v_row.queue, priority = v_row.priority,
      max_attempts = v_row.max_attempts, timeout_seconds = v_row.timeout_seconds, tags = v_row.tags,
      metadata = v_row.metadata, concurrency_key = v_row.concurrency_key, cron = v_row.cron, every = v_row.every,
      anchor = v_row.anchor, timezone = v_row.timezone, overlap = v_row.overlap, missed = v_row.missed,
      jitter = v_row.jitter
  where s.name = change_schedule.name;
  return true;
end $$;
