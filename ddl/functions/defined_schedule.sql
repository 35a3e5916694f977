-- Return a row of schedules with the values of a definition (see add_schedule.sql); other columns are those of p_old,
-- or the defaults.
create or replace function pqlite.defined_schedule(p_old pqlite.schedules, p_definition jsonb)
returns pqlite.schedules
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_row pqlite.schedules := p_old;
  v_unknown text;
begin
  if jsonb_typeof(p_definition) is distinct from 'object' then
    raise exception 'a schedule is defined by a JSON object' using errcode = '22023';
  end if;
  select k into v_unknown from jsonb_object_keys(p_definition) k
  where k not in ('job_type', 'payload', 'queue', 'priority', 'max_attempts', 'timeout_seconds', 'tags', 'metadata',
                  'concurrency_key', 'cron', 'every', 'anchor', 'timezone', 'overlap', 'missed', 'jitter');
  if found then
    raise exception 'a schedule has no %', quote_literal(v_unknown) using errcode = '22023';
  end if;
  if v_row.revision is null then
    v_row := jsonb_populate_record(null::pqlite.schedules, jsonb_build_object(
      'payload', '{}'::jsonb, 'queue', 'default', 'priority', 0, 'max_attempts', 5, 'tags', '[]'::jsonb,
      'metadata', '{}'::jsonb, 'anchor', '1970-01-01 00:00+00', 'timezone', 'UTC', 'overlap', 'skip',
      'missed', 'latest', 'jitter', '0', 'next_at', clock_timestamp(), 'handled_through', clock_timestamp(),
      'revision', 1, 'defined_in', 'row', 'superseded', '[]'::jsonb, 'fired', 0, 'skipped', 0, 'missed_slots', 0,
      'created_at', clock_timestamp(), 'updated_at', clock_timestamp()));
  end if;
  return jsonb_populate_record(v_row, p_definition);
end $$;
