-- Whether a job is one that a worker of these queues, job types and payload versions runs (null: of any). One expression
-- without settings of its own, so that the planner puts it in place of the call.
create or replace function pqlite.wanted(
  queue text, job_type text, metadata jsonb, queues text[], types text[], versions jsonb)
returns boolean language sql immutable parallel safe as $$
  select (types is null or job_type = any (types)) and (queues is null or queue = any (queues))
     and (versions is null or not pqlite.too_new(metadata -> 'payload_version', job_type, versions))
$$;
