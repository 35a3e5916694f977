select format('%I.%I', schemaname, tablename) from pg_tables where schemaname = $1
