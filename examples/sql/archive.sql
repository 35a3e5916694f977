-- Move finished jobs that are older than 7 days into a table of your own, 10,000 at a time, until none is left.
--
--   psql -f archive.sql app          outside of any transaction

create schema if not exists archive;
create table if not exists archive.jobs (
  id bigint primary key, job_type text, queue text, status text, payload jsonb, result jsonb, last_error text,
  errors jsonb, attempts int, dedupe_key text, created_at timestamptz, finished_at timestamptz, duration_ms int
);

do $$
declare
  v_moved int;
begin
  loop
    with moved as (
      delete from pqlite.jobs j where j.id = any (array(
        select f.id from pqlite.jobs f
        where f.status in ('DONE', 'FAILED', 'CANCELLED') and f.finished_at < now() - interval '7 days'
        order by f.id limit 10000 for update skip locked))
      returning j.*
    )
    insert into archive.jobs
    select m.id, m.job_type, m.queue, m.status, m.payload, m.result, m.last_error, m.errors, m.attempts, m.dedupe_key,
           m.created_at, m.finished_at, m.duration_ms
    from moved m;
    get diagnostics v_moved = row_count;
    commit;
    exit when v_moved = 0;
  end loop;
end $$;

select status, count(*) from archive.jobs group by status order by status;
