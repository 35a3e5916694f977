-- The SQL condition on a job j that a filter means, for statements that pass the filter itself as their parameter $1.
-- No value of the filter becomes part of the SQL. 22023: an unknown key.
--
-- status, queue, job_type, tag: one text, or an array of which one must match. key: the dedupe or concurrency key.
-- worker: the beginning of the id of the worker that runs it. schedule: the name of the schedule that made it. payload,
-- metadata: what they must contain. error: a part of last_error, in upper or lower case. created_after, created_before,
-- due_after, due_before, finished_after, finished_before: times. ids: an array.
create or replace function pqlite.job_filter(filter jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  c_any constant text := ' = any (array(select jsonb_array_elements_text(case jsonb_typeof($1 -> %1$L)
    when ''array'' then $1 -> %1$L else jsonb_build_array($1 -> %1$L) end)))';
  v_key text;
  v_parts text[] := '{}';
begin
  for v_key in select k from jsonb_object_keys(filter) k order by k loop
    v_parts := v_parts || case v_key
      when 'status' then 'j.status' || format(c_any, v_key)
      when 'queue' then 'j.queue' || format(c_any, v_key)
      when 'job_type' then 'j.job_type' || format(c_any, v_key)
      when 'tag' then replace('j.tags' || format(c_any, v_key), ' = any (array(', ' && (array(')
      when 'key' then '(j.dedupe_key = $1 ->> ''key'' or j.concurrency_key = $1 ->> ''key'')'
      when 'worker' then 'starts_with(j.locked_by, $1 ->> ''worker'')'
      when 'schedule' then 'j.metadata ->> ''schedule'' = $1 ->> ''schedule'''
      when 'payload' then 'j.payload @> ($1 -> ''payload'')'
      when 'metadata' then 'j.metadata @> ($1 -> ''metadata'')'
      when 'error' then 'position(lower($1 ->> ''error'') in lower(j.last_error)) > 0'
      when 'created_after' then 'j.created_at >= ($1 ->> ''created_after'')::timestamptz'
      when 'created_before' then 'j.created_at < ($1 ->> ''created_before'')::timestamptz'
      when 'due_after' then 'j.run_after >= ($1 ->> ''due_after'')::timestamptz'
      when 'due_before' then 'j.run_after < ($1 ->> ''due_before'')::timestamptz'
      when 'finished_after' then 'j.finished_at >= ($1 ->> ''finished_after'')::timestamptz'
      when 'finished_before' then 'j.finished_at < ($1 ->> ''finished_before'')::timestamptz'
      when 'ids' then 'j.id = any (array(select jsonb_array_elements_text($1 -> ''ids'')::bigint))'
    end;
    if v_parts[cardinality(v_parts)] is null then
      raise exception 'unknown key in the filter: %', v_key using errcode = 'invalid_parameter_value';
    end if;
  end loop;
  return coalesce(nullif(array_to_string(v_parts, ' and '), ''), 'true');
end $$;
