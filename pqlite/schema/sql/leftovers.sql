-- What an interrupted CREATE or REINDEX INDEX CONCURRENTLY left behind: written to by every change, used by no query.
select format('%I.%I', n.nspname, c.relname) as index, format('%I.%I', n.nspname, t.relname) as on_table
from pg_index i
join pg_class c on c.oid = i.indexrelid
join pg_class t on t.oid = i.indrelid
join pg_namespace n on n.oid = c.relnamespace
where not i.indisvalid and n.oid = 'pqlite'::regnamespace
  and (c.relname::text = any ($1::text[]) or c.relname ~ '_cc(new|old)\d*$')
