-- Whether a payload's version (a job's metadata -> 'payload_version') is newer than the versions that a worker
-- supports, {"type": 2}; for types that are not in it, all versions are. If it is not a number, the handler refuses the
-- payload. One expression and no settings, so that the planner can inline it.
create or replace function pqlite.too_new(version jsonb, job_type text, versions jsonb)
returns boolean language sql immutable parallel safe as $$
  select coalesce(jsonb_typeof(version) = 'number' and version > versions -> job_type, false)
$$;
