-- Trigger function: one job per changed row, in the transaction that changes it. An outbox is one statement:
--
--   create trigger orders_changed after insert or update or delete on orders for each row
--     execute function pqlite.enqueue_on_change('order_changed', '{"queue": "mail", "columns": ["id", "total"]}');
--
-- The payload is {"operation": "UPDATE", "schema": "public", "table": "orders", "new": {...}, "old": {...}}; after an
-- INSERT old is null, after a DELETE new. Options, as one JSON text: queue, priority, max_attempts, timeout_seconds,
-- delay (seconds, or "10 minutes"), columns (only these of new and old), dedupe (a key made of columns, "order:{id}";
-- without a key where one of them is null).
--
-- A role that writes to the table needs no privilege on the queue. To create the trigger, a role needs EXECUTE on this
-- function and TRIGGER on the table (which allows it to see the rows anyway).
--
-- With dedupe, changes with the same key share one job until it starts, and no change is missed. If the key's job is
-- READY, it is locked until this transaction ends: claims skip it, so it does not run before it can see the change. If
-- it is RUNNING, it may already have read the old row, so another job is created, with " #2" appended to the key. Any
-- number of transactions can share a job at the same time. But while another open transaction creates the key's job,
-- this one waits for its end (up to lock_timeout), and two transactions that create each other's keys in opposite order
-- deadlock, which the server resolves by aborting one. (A transaction that is REPEATABLE READ or stricter may have to
-- be repeated, as after any conflict: 40001.)
--
-- Writers that overlap without a gap must not delay a job for ever. So a job that has been due for 2 seconds is shared
-- only half of the time, in turns: of 1 second while it has waited for less than 10, of 10 seconds up to 100, and so
-- on. In its off turns changes go to the next key (" #2"), which has the opposite turns. So the job starts when the
-- transactions that share it have ended in an off turn; and if no worker runs, a key has two or three waiting jobs, not
-- one for every change.
create or replace function pqlite.enqueue_on_change() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_trigger text := format('trigger %I on %s', tg_name, tg_relid::regclass);
  v_options jsonb;
  v_option record;
  v_wanted text;
  v_list text;
  v_new jsonb;
  v_old jsonb;
  v_row jsonb;
  v_missing text;
  v_key text;
  v_job record;
  v_now timestamptz;
  v_due timestamptz;
begin
  if tg_level <> 'ROW' or tg_when <> 'AFTER' then
    raise exception '%: make it AFTER INSERT, UPDATE or DELETE, FOR EACH ROW', v_trigger using errcode = '39P01';
  elsif tg_relid = 'pqlite.jobs'::regclass then
    raise exception '%: each job would make another', v_trigger using errcode = '39P01';
  elsif tg_nargs not in (1, 2) then
    raise exception '%: the arguments are the job type and, if wanted, the options as one JSON text', v_trigger
      using errcode = '22023';
  end if;

  v_options := coalesce(tg_argv[1], '{}')::jsonb;
  if jsonb_typeof(v_options) <> 'object' then
    raise exception '%: the options must be a JSON object, not %', v_trigger, v_options using errcode = '22023';
  end if;
  for v_option in select o.key as name, o.value, jsonb_typeof(o.value) as type from jsonb_each(v_options) o loop
    v_wanted := case
      when v_option.name = 'queue' then
        case when v_option.type <> 'string' then 'a text' end
      when v_option.name in ('priority', 'max_attempts') then
        case when v_option.type <> 'number' or v_option.value::text !~ '^-?[0-9]{1,9}$' then 'a whole number' end
      when v_option.name = 'timeout_seconds' then
        case when v_option.type <> 'number' then 'a number of seconds' end
      when v_option.name = 'delay' then
        case when v_option.type <> 'number' and v_option.value::text !~
                    '^"( *[0-9]{1,9}([.][0-9]{1,6})? *(second|minute|hour|day|week|month)s? *)+"$'
             then 'a number of seconds, or a text such as "10 minutes"' end
      when v_option.name = 'columns' then
        case when v_option.type <> 'array' or jsonb_path_exists(v_option.value, 'strict $[*] ? (@.type() != "string")')
             then 'a list of names' end
      when v_option.name = 'dedupe' then
        case when v_option.type <> 'string' or v_option.value #>> '{}' !~ '^([^{}]|[{][^{}]+[}])+$'
             then 'a text with columns in braces, such as "order:{id}"' end
      else 'unknown' end;
    if v_wanted = 'unknown' then
      raise exception '%: there is no option "%"; there are columns, dedupe, delay, max_attempts, priority, queue, '
                      'timeout_seconds', v_trigger, v_option.name using errcode = '22023';
    elsif v_wanted is not null then
      raise exception '%: option "%" must be %, not %', v_trigger, v_option.name, v_wanted, v_option.value
        using errcode = '22023';
    end if;
  end loop;

  v_list := pqlite.columns_of(tg_relid);
  if v_list is null then
    v_new := to_jsonb(new);
    v_old := to_jsonb(old);
  else
    -- r.* is always the row; r alone would be a column named r, if there is one.
    if tg_op <> 'DELETE' then
      execute format('select to_jsonb(r.*) from (select %s) r', v_list) into v_new using new;
    end if;
    if tg_op <> 'INSERT' then
      execute format('select to_jsonb(r.*) from (select %s) r', v_list) into v_old using old;
    end if;
  end if;
  v_row := coalesce(v_new, v_old);

  if v_options ? 'dedupe' then
    select min(p.part[2]) filter (where not v_row ? p.part[2]),
           case when not bool_or(p.part[2] is not null and v_row ->> p.part[2] is null)
                then string_agg(p.part[1] || coalesce(v_row ->> p.part[2], ''), '' order by p.i) end
    into v_missing, v_key
    from regexp_matches(v_options ->> 'dedupe', '([^{]*)(?:[{]([^{}]+)[}])?', 'g') with ordinality p (part, i);
    if v_missing is not null then
      raise exception '%: option "dedupe" names "%", which is no column', v_trigger, v_missing using errcode = '22023';
    end if;
  end if;
  if v_options ? 'columns' then
    select min(c.name) filter (where not v_row ? c.name),
           case when v_new is not null then coalesce(jsonb_object_agg(c.name, v_new -> c.name), '{}') end,
           case when v_old is not null then coalesce(jsonb_object_agg(c.name, v_old -> c.name), '{}') end
    into v_missing, v_new, v_old
    from jsonb_array_elements_text(v_options -> 'columns') c (name);
    if v_missing is not null then
      raise exception '%: option "columns" names "%", which is no column', v_trigger, v_missing using errcode = '22023';
    end if;
  end if;

  for v_try in 1 .. 100 loop
    select e.id, e.inserted into v_job from pqlite.enqueue(
      tg_argv[0],
      jsonb_build_object('operation', tg_op, 'schema', tg_table_schema, 'table', tg_table_name,
                         'new', v_new, 'old', v_old),
      dedupe_key => v_key || case when v_try = 1 then '' else ' #' || v_try end,
      delay => case jsonb_typeof(v_options -> 'delay')
                 when 'number' then make_interval(secs => (v_options ->> 'delay')::double precision)
                 when 'string' then (v_options ->> 'delay')::interval end,
      priority => coalesce((v_options ->> 'priority')::int, 0),
      max_attempts => coalesce((v_options ->> 'max_attempts')::int, 5),
      timeout_seconds => (v_options ->> 'timeout_seconds')::double precision,
      queue => coalesce(v_options ->> 'queue', 'default')) e;
    if v_job.inserted then
      return null;
    end if;
    v_now := clock_timestamp();
    select j.run_after into v_due from pqlite.jobs j
    where j.id = v_job.id
      and case when j.status = 'BLOCKED' then true
               when j.status <> 'READY' then false
               when j.run_after > v_now - interval '2 s' then true
               else (div(extract(epoch from v_now), power(10, floor(log(extract(epoch from v_now - j.run_after)))))
                     + v_try) % 2 = 0 end
    for share;
    if found then
      if v_due < v_now + interval '1 minute' then
        -- Claims skip it until this is committed; then workers look for it again.
        perform pqlite.wake(p_payload => 'rewind');
      end if;
      return null;
    end if;
  end loop;
  raise exception '%: the dedupe key % kept changing hands', v_trigger, quote_literal(v_key) using errcode = '40001';
end $$;
