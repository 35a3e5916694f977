-- Add a schedule. Returns false, and changes nothing, if there is one by that name.
--
--   select pqlite.add_schedule('nightly', '{"job_type": "report", "cron": "0 3 * * *", "timezone": "Europe/Berlin"}');
--   select pqlite.add_schedule('ping', '{"job_type": "ping", "every": "5 minutes", "payload": {"host": "a"}}');
--
-- The keys of the definition are columns of pqlite.schedules: job_type, payload, queue, priority, max_attempts,
-- timeout_seconds, tags, metadata, concurrency_key; cron or every; anchor, timezone, overlap, missed, jitter. An
-- cron expression is checked by the worker that computes its first slot; errors are in schedule_stats.problem.
create or replace function pqlite.add_schedule(name text, definition jsonb) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_new pqlite.schedules := pqlite.defined_schedule(null, add_schedule.definition);
begin
  v_new.name := add_schedule.name;
  insert into pqlite.schedules values (v_new.*) on conflict (name) do nothing;
  return found;
end $$;
