-- Write the schedules that a release of the code defines into the table. The argument is [{"name", "digest",
-- "definition"}, ...], with a digest of the definition and the definition as for add_schedule. Every worker calls this
-- when it starts and then once a minute, which also shows that the release still runs.
--
-- A definition that was not seen before is newer, and is written once. Earlier definitions are recorded: releases that
-- still have them do not change the schedule back. Only if no worker has called with the newer definition for p_grace
-- (a rollback), an earlier one is written again. With p_disable, schedules that no worker has called with for p_grace
-- are disabled. Changes made at run time stay until the code changes; a pause stays until it is ended.
--
-- Verdicts: ADDED, CHANGED, ENABLED, DISABLED; OLDER (a newer release runs); TAKEN (a schedule of that name was added
-- at run time, and is not changed). No row: nothing was changed.
create or replace function pqlite.reconcile_schedules(p_definitions jsonb, p_grace interval, p_disable boolean)
returns table (name text, verdict text)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  d record;
  s pqlite.schedules;
  v_now timestamptz := clock_timestamp();
begin
  for d in
    select p.name, p.digest, p.definition
    from jsonb_to_recordset(p_definitions) p (name text, digest text, definition jsonb) order by p.name
  loop
    select x.* into s from pqlite.schedules x where x.name = d.name;
    if not found then
      s := pqlite.defined_schedule(null, d.definition);
      s.name := d.name; s.defined_in := 'code'; s.definition := d.digest; s.defined_at := v_now; s.seen_at := v_now;
      insert into pqlite.schedules values (s.*) on conflict (name) do nothing;
      verdict := case when found then 'ADDED' end;
    elsif s.defined_in <> 'code' then
      verdict := 'TAKEN';
    elsif s.definition = d.digest then
      verdict := null;
      if s.disabled_at is not null then
        update pqlite.schedules x set disabled_at = null, seen_at = v_now
        where x.name = d.name and x.definition = d.digest and x.disabled_at is not null;
        verdict := case when found then 'ENABLED' end;
      elsif s.seen_at < v_now - p_grace / 8 then
        update pqlite.schedules x set seen_at = greatest(x.seen_at, v_now)
        where x.name = d.name and x.definition = d.digest;
      end if;
    elsif d.digest = any (s.superseded) and s.seen_at >= v_now - p_grace and s.disabled_at is null then
      verdict := 'OLDER';
    else
      s := pqlite.defined_schedule(null, d.definition);
      update pqlite.schedules x
      set job_type = s.job_type, payload = s.payload, queue = s.queue, priority = s.priority,
          max_attempts = s.max_attempts, timeout_seconds = s.timeout_seconds, tags = s.tags, metadata = s.metadata,
          concurrency_key = s.concurrency_key, cron = s.cron, every = s.every, anchor = s.anchor,
          timezone = s.timezone, overlap = s.overlap, missed = s.missed, jitter = s.jitter, disabled_at = null,
          definition = d.digest, defined_at = v_now, seen_at = v_now,
          superseded = (array_remove(x.superseded, d.digest) || x.definition)
                       [greatest(1, cardinality(x.superseded) - 50):]
      where x.name = d.name and x.defined_in = 'code' and x.definition <> d.digest
        and not (d.digest = any (x.superseded) and x.seen_at >= v_now - p_grace and x.disabled_at is null);
      verdict := case when found then 'CHANGED' end;
    end if;
    if verdict is not null then
      name := d.name;
      return next;
    end if;
  end loop;
  if p_disable then
    return query
    update pqlite.schedules x set disabled_at = v_now
    where x.defined_in = 'code' and x.disabled_at is null and x.seen_at < v_now - p_grace
    returning x.name, 'DISABLED';
  end if;
end $$;
