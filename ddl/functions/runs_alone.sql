-- Whether a suspect must run with no other suspect beside it: its worker died twice while it held the job, or this
-- attempt is the job's last. One expression without settings of its own, so that the planner puts it in place of the
-- call.
create or replace function pqlite.runs_alone(crashes int, attempt int, max_attempts int)
returns boolean language sql immutable parallel safe as $$
  select crashes >= 2 or attempt >= max_attempts
$$;
