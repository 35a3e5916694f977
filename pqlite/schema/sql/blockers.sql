-- Sessions that hold locks of the schema's tables, of one more table ($2), or the migrators' own lock ($1); the oldest
-- transactions first. Never what they run: it may hold secrets.
select a.pid, a.application_name, a.state, extract(epoch from clock_timestamp() - a.xact_start)::float8 as seconds
from pg_stat_activity a
where a.pid <> pg_backend_pid() and a.pid in (
  select l.pid from pg_locks l
  where l.granted and l.database = (select d.oid from pg_database d where d.datname = current_database())
    and (l.relation in (select c.oid from pg_class c where c.relnamespace = to_regnamespace('pqlite'))
         or l.relation = to_regclass($2)
         or l.locktype = 'advisory' and l.objsubid = 1
            and (l.classid::bigint << 32) | l.objid::bigint = hashtextextended($1, 0)))
order by a.xact_start nulls last limit 3
