-- The ids of jobs that a filter (job_filter.sql) matches, newest first, at most max_jobs. A call looks at max_scanned
-- jobs at most, so that it stays short beside millions of jobs; it may return less than there is, or nothing. Where it
-- stopped is next_at, next_id: pass them as before_at, before_id to go on. next_id is null at the end.
--
-- FAILED and CANCELLED jobs are read by the time of their end; RUNNING or BLOCKED ones by their own indexes, all of
-- them in each call; all others from the highest id down.
create or replace function pqlite.find_jobs(
  filter jsonb default '{}', max_jobs int default 100, before_at timestamptz default null, before_id bigint default null,
  max_scanned int default 20000, out ids bigint[], out next_at timestamptz, out next_id bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
  v_filter jsonb := filter || case when filter ? 'worker' and not filter ? 'status' then '{"status": "RUNNING"}'
                                   else '{}'::jsonb end;
  v_status text[] := array(select jsonb_array_elements_text(
    case jsonb_typeof(v_filter -> 'status') when 'array' then v_filter -> 'status'
         else jsonb_build_array(v_filter -> 'status') end));
  v_order text := 'j.id desc';
  v_from text := 'j.id < coalesce($3, 9223372036854775807)';
  v_at timestamptz[];
begin
  if v_status <@ '{FAILED,CANCELLED}' then
    v_order := 'j.finished_at desc, j.id desc';
    v_from := 'j.status in (''FAILED'', ''CANCELLED'') and (j.finished_at, j.id) < '
              '(coalesce($2, ''infinity''), coalesce($3, 9223372036854775807))';
  elsif v_status = '{RUNNING}' or v_status = '{BLOCKED}' then
    v_from := format('%s and j.status = %L', v_from, v_status[1]);
    v_order := '(j.id + 0) desc';  -- not by the primary key
  elsif v_filter ? 'ids' then
    v_from := v_from || ' and j.id = any (array(select jsonb_array_elements_text($1 -> ''ids'')::bigint))';
  end if;
  execute format(
    'select array_agg(f.id), array_agg(f.finished_at) from (
       select j.id, j.finished_at from (select * from pqlite.jobs j where %s order by %s limit $4) j
       where %s order by %s limit $5) f', v_from, v_order, pqlite.job_filter(v_filter), v_order)
    into ids, v_at using v_filter, before_at, before_id, max_scanned, max_jobs;
  ids := coalesce(ids, '{}');
  if cardinality(ids) = max_jobs then
    next_id := ids[max_jobs];
    next_at := v_at[max_jobs];
  else
    execute format('select j.finished_at, j.id from pqlite.jobs j where %s order by %s offset $4 - 1 limit 1',
                   v_from, v_order)
      into next_at, next_id using v_filter, before_at, before_id, max_scanned;
  end if;
end $$;
