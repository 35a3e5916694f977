-- Do the same to several jobs, those of `ids` that still match the filter (job_filter.sql); returns how many were
-- changed. For chunks of some hundred, each in a transaction of its own. Jobs whose rows are locked are skipped, and so
-- are those in a status to which the action does not apply:
--
--   retry         ended jobs run again, now, as by pqlite.retry; not those whose dedupe_key a newer job holds
--                 (23505: such a job was enqueued at this moment. Nothing was changed; repeat it)
--   cancel        as pqlite.cancel
--   delete        ended jobs
--   run_now       jobs that wait for a later time become due
--   set_queue     of waiting jobs, to p_value
--   set_priority  of waiting jobs, to p_value
--
-- A job whose lane changes gets a run_after that is not in the past, or it would be behind the watermarks of the
-- workers.
create or replace function pqlite.change_jobs(
  p_ids bigint[], p_action text, p_filter jsonb default '{}', p_value text default null)
returns int
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
  v_statuses text[] := case p_action
    when 'retry' then '{DONE,FAILED,CANCELLED}' when 'delete' then '{DONE,FAILED,CANCELLED}'
    when 'cancel' then '{READY,BLOCKED,RUNNING}' when 'run_now' then '{READY}'
    when 'set_queue' then '{READY,BLOCKED}' when 'set_priority' then '{READY,BLOCKED}' end;
  v_ids bigint[];
  v_id bigint;
  v_changed int := 0;
begin
  if v_statuses is null then
    raise exception 'unknown action: %', p_action using errcode = 'invalid_parameter_value';
  end if;
  execute format(
    'select array(select j.id from pqlite.jobs j where j.id = any ($2) and j.status = any ($3) and %s
                  order by j.id for no key update skip locked)', pqlite.job_filter(p_filter))
    into v_ids using p_filter, p_ids, v_statuses;
  case p_action
    when 'retry' then
      foreach v_id in array v_ids loop
        -- Not by an EXCEPTION block: many subtransactions in one transaction stall standbys.
        continue when exists (
          select from pqlite.jobs j join pqlite.jobs h on h.dedupe_key = j.dedupe_key
          where j.id = v_id and j.dedupe_key is not null and h.status in ('READY', 'RUNNING', 'BLOCKED'));
        perform pqlite.retry(v_id);
        v_changed := v_changed + 1;
      end loop;
      return v_changed;
    when 'cancel' then
      foreach v_id in array v_ids loop
        perform pqlite.cancel(v_id);
      end loop;
      return cardinality(v_ids);
    when 'delete' then
      delete from pqlite.jobs j where j.id = any (v_ids);
    when 'run_now' then
      update pqlite.jobs j set run_after = clock_timestamp(), updated_at = clock_timestamp()
      where j.id = any (v_ids) and j.run_after > clock_timestamp();
    else
      update pqlite.jobs j
      set queue = case p_action when 'set_queue' then p_value else j.queue end,
          priority = case p_action when 'set_priority' then p_value::int else j.priority end,
          run_after = greatest(j.run_after, clock_timestamp()), updated_at = clock_timestamp()
      where j.id = any (v_ids)
        and case p_action when 'set_queue' then j.queue <> p_value else j.priority <> p_value::int end;
  end case;
  get diagnostics v_changed = row_count;
  if p_action <> 'delete' and v_changed > 0 then
    perform pqlite.wake(null, 'rewind');
  end if;
  return v_changed;
end $$;
