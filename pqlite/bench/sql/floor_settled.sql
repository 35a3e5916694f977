select not exists (select from pqlite_bench_floor.jobs where status = 'RUNNING')
   and not exists (select from pqlite_bench_floor.jobs where status = 'READY')
