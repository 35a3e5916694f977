select coalesce(sum(coalesce(heap_blks_hit, 0) + coalesce(heap_blks_read, 0)
                    + coalesce(idx_blks_hit, 0) + coalesce(idx_blks_read, 0)), 0)::bigint
from pg_statio_user_tables where schemaname = $1
