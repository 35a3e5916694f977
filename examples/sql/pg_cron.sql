-- Schedules without any process of yours: pg_cron runs SQL inside the server, and SQL enqueues.
--
--   psql -f pg_cron.sql app          in the database that cron.database_name says

create extension if not exists pg_cron;

-- The key makes a tick do nothing while the job of an earlier one is still active.
select cron.schedule('refresh prices', '* * * * *',
  $$select pqlite.enqueue('refresh_prices', dedupe_key => 'refresh_prices')$$);

-- One job per row that is due.
select cron.schedule('remind', '*/5 * * * *', $$
  insert into pqlite.jobs (job_type, payload, dedupe_key)
  select 'remind', jsonb_build_object('database', d.datname), 'remind:' || d.datname
  from pg_database d where d.datallowconn
  on conflict (dedupe_key) where dedupe_key is not null and status in ('READY', 'RUNNING') do nothing$$);

select jobname, schedule from cron.job order by jobname;
