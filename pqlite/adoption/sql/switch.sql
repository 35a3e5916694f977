-- From here on all new jobs are inserted into pqlite.jobs, and the old ones wait in public.jobs_pqrun.
alter table public.jobs rename to jobs_pqrun;
-- A job that moves is not deleted.
alter table public.jobs_pqrun disable trigger user;

create view pqlite.pqrun_jobs as
select j.id, j.job_type, j.payload, j.status, j.priority, j.attempts, j.max_attempts, j.run_after, j.timeout_seconds,
       j.locked_at, j.locked_by, j.dedupe_key, j.last_error, j.finished_at, j.duration_ms, j.result, j.created_at,
       j.updated_at,
       to_jsonb(j) - '{id,job_type,payload,status,priority,attempts,max_attempts,run_after,timeout_seconds,locked_at,
         locked_by,dedupe_key,last_error,finished_at,duration_ms,result,created_at,updated_at}'::text[] as rest
from public.jobs_pqrun j;

-- Plain enough for the server to insert, update and delete through it, ON CONFLICT included.
create view public.jobs as
select j.id, j.job_type, j.payload, j.status, j.priority, j.attempts, j.max_attempts, j.run_after, j.timeout_seconds,
       j.locked_at, j.locked_by, j.dedupe_key, j.last_error, j.finished_at, j.duration_ms, j.result, j.created_at,
       j.updated_at
from pqlite.jobs j;

comment on view public.jobs is 'The table of pqrun''s jobs, adopted: now a view of the queue that took them over.';

do $$
declare
  v_grant record;
begin
  for v_grant in
    select case a.grantee when 0 then 'public' else a.grantee::regrole::text end as role, a.privilege_type as privilege
    from pg_class c cross join lateral aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
    where c.oid = 'public.jobs_pqrun'::regclass and a.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
  loop
    execute format('grant %s on public.jobs to %s', v_grant.privilege, v_grant.role);
  end loop;
end $$;
