select * from pqlite_bench_floor.settle($1, $2, $3, $4)
