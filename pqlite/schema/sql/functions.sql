-- What was installed last; null where nobody has recorded it.
select m.functions from pqlite.migrations m order by m.version desc limit 1
