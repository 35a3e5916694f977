with inserted as (
  insert into pqlite_bench_floor.jobs (job_type, payload) values ('noop', $1::text::jsonb) returning id
)
select id, pg_notify('pqlite_bench_floor', '') from inserted
