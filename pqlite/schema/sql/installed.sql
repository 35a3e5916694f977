update pqlite.migrations m set functions = $1
where m.version = (select max(l.version) from pqlite.migrations l);
