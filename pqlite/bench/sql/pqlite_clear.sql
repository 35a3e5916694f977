truncate pqlite_bench.jobs, pqlite_bench.workers
