select * from pqlite_bench_floor.claim($1, $2, $3, $4, $5, $6, $7)
