-- Whether a payload's version (a job's metadata -> 'payload_version') is newer than `versions` says that a worker knows:
-- {"type": 2}; of types that are not in it, any. What is no number is for the handler to refuse.
-- One expression without settings of its own, so that the planner puts it in place of the call.
create or replace function pqlite.too_new(version jsonb, job_type text, versions jsonb)
returns boolean language sql immutable parallel safe as $$
  select coalesce(jsonb_typeof(version) = 'number' and version > versions -> job_type, false)
$$;
