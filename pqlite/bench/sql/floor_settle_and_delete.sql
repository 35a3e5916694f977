select * from pqlite_bench_floor.settle_and_delete($1, $2, $3, $4)
