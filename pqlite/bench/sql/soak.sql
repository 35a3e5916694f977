select (select count(*) from pg_stat_activity where datname = current_database()) as connections,
       pg_table_size('pqlite_bench.jobs') as table_bytes,
       pg_indexes_size('pqlite_bench.jobs') as index_bytes,
       (select n_dead_tup from pg_stat_user_tables where relid = 'pqlite_bench.jobs'::regclass) as dead_rows
