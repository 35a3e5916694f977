insert into pqlite_bench.jobs (job_type, payload) values ('noop', $1::text::jsonb) returning id
