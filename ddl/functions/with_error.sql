-- The error history with one more entry: the latest 20, each with its last 2000 characters.
create or replace function pqlite.with_error(p_errors jsonb, p_attempt int, p_at timestamptz, p_error text)
returns jsonb
language sql immutable as $$
  select case when jsonb_array_length(p_errors) >= 20 then p_errors - 0 else p_errors end
         || jsonb_build_array(jsonb_build_object('attempt', p_attempt, 'at', p_at, 'error', right(p_error, 2000)));
$$;
