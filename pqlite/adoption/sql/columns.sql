-- A table that may be pqrun's: what it is, and its columns.
select c.relkind::text as kind, c.relrowsecurity as secured,
       array(select a.attname::text from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)
         as columns,
       exists (select from pg_depend d join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
               where r.ev_class = c.oid and d.refobjid = to_regclass('pqlite.jobs')) as adopted
from pg_class c where c.oid = to_regclass($1)
