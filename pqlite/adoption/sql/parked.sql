-- The table whose jobs are being moved; null: none.
select format('%I.%I', n.nspname, c.relname)
from pg_rewrite r
join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
join pg_class c on c.oid = d.refobjid and c.relkind = 'r'
join pg_namespace n on n.oid = c.relnamespace
where r.ev_class = to_regclass('pqlite.pqrun_jobs') limit 1
