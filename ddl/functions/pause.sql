-- Pause a queue, a job type or the jobs with a concurrency key (scope 'queue', 'job_type', 'key'): from now on no
-- worker starts a job of it, until `resume` or the time `until`. Jobs that run go on; jobs can be enqueued, and become
-- due. It can be repeated: the latest reason, name and time count. Not restricted to names that exist.
--
--   select pqlite.pause('queue', 'mail', reason => 'the provider is down', paused_by => 'ada');
create or replace function pqlite.pause(
  scope text, name text, reason text default null, paused_by text default null, until timestamptz default null)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  insert into pqlite.pauses as p (scope, name, reason, paused_by, until)
  values (pause.scope, pause.name, pause.reason, pause.paused_by, pause.until)
  on conflict (scope, name) do update
  set reason = excluded.reason, paused_by = excluded.paused_by, until = excluded.until;
  if current_setting('pqlite_settings.notify', true) is distinct from 'off' then  -- see wake.sql
    -- To workers that are busy, too: they give prefetched jobs back.
    perform pg_notify('pqlite_wake', 'pause');
  end if;
end $$;
