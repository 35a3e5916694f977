select not exists (select from pqlite_bench_procrastinate.procrastinate_jobs where status in ('todo', 'doing'))
