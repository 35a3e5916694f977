select not exists (select from pqlite_bench_pgqueuer.pgqueuer)
