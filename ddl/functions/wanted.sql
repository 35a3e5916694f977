-- Whether a worker with these queues, job types and payload versions (null: all) runs a job. One expression and no
-- settings, so that the planner can inline it.
create or replace function pqlite.wanted(
  queue text, job_type text, metadata jsonb, queues text[], types text[], versions jsonb)
returns boolean language sql immutable parallel safe as $$
  select (types is null or job_type = any (types)) and (queues is null or queue = any (queues))
     and (versions is null or not pqlite.too_new(metadata -> 'payload_version', job_type, versions))
$$;
