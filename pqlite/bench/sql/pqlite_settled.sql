select not exists (select from pqlite_bench.jobs where status = 'RUNNING')
   and not exists (select from pqlite_bench.jobs where status = 'READY')
