insert into pqlite_bench.jobs (job_type, payload, priority, queue)
select 'noop' || coalesce(nullif(i % $2::int, 0)::text, ''),
       jsonb_build_object('i', i) || $5::text::jsonb,
       i / $2 % $3::int,
       case when $4::int = 1 then 'default' else 'queue' || i / ($2 * $3) % $4 end
from generate_series(1, $1::int) i
