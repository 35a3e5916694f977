drop view pqlite.pqrun_jobs;
drop table public.jobs_pqrun;
