-- The digest of the functions that were installed last; null if none is recorded.
select m.functions from pqlite.migrations m order by m.version desc limit 1
