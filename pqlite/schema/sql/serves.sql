-- The oldest version that everything applied after version $1 still serves.
select max(coalesce(m.serves, m.version)) from pqlite.migrations m where m.version > $1
