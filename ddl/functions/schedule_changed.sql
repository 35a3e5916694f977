-- Row trigger for changes of a schedule by any client: slots before the change do not fire any more, a worker computes
-- next_at again, and workers are notified.
create or replace function pqlite.schedule_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_now timestamptz := clock_timestamp();
begin
  if tg_op = 'UPDATE' then
    if (old.cron, old.every, old.anchor, old.timezone, old.paused_at is null)
       is distinct from (new.cron, new.every, new.anchor, new.timezone, new.paused_at is null) then
      new.handled_through := greatest(old.handled_through, v_now);
      new.held_since := null;
      new.next_at := v_now;
    elsif old.disabled_at is not null and new.disabled_at is null then
      new.next_at := v_now;  -- the slots since then count as missed
    end if;
    new.revision := old.revision + 1;
    new.problem := null;
    new.updated_at := v_now;
  end if;
  if new.paused_at is not null or new.disabled_at is not null then
    new.next_at := null;
  end if;
  if current_setting('pqlite_settings.notify', true) is distinct from 'off' then  -- see wake.sql
    perform pg_notify('pqlite_wake', 'schedules');
  end if;
  return new;
end $$;

do $$ begin
  if not exists (select from pg_trigger t where t.tgrelid = 'pqlite.schedules'::regclass
                                            and t.tgname = 'schedule_changed') then
    create trigger schedule_changed
      before insert or update of job_type, payload, queue, priority, max_attempts, timeout_seconds, tags, metadata,
        concurrency_key, cron, every, anchor, timezone, overlap, missed, jitter, paused_at, disabled_at
      on pqlite.schedules for each row execute function pqlite.schedule_changed();
  end if;
end $$;
