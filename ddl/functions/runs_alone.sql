-- Whether a suspect must run without another suspect beside it: two workers died while they held it, or this is its
-- last attempt. One expression and no settings, so that the planner can inline it.
create or replace function pqlite.runs_alone(crashes int, attempt int, max_attempts int)
returns boolean language sql immutable parallel safe as $$
  select crashes >= 2 or attempt >= max_attempts
$$;
