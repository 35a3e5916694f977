truncate pqlite_bench.jobs;
delete from pqlite_bench.workers where dead_at is not null or lease_until < clock_timestamp();
