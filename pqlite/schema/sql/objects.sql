-- Everything that is in the schema for itself: not what belongs to a table (indexes, identity sequences, row types).
select i.type, coalesce(p.proname, i.name)::text as name, i.identity
from pg_depend d
cross join lateral pg_identify_object(d.classid, d.objid, d.objsubid) i
left join pg_proc p on d.classid = 'pg_proc'::regclass and p.oid = d.objid
where d.refclassid = 'pg_namespace'::regclass and d.refobjid = 'pqlite'::regnamespace and d.deptype = 'n'
  and not exists (select from pg_depend o where o.classid = d.classid and o.objid = d.objid and o.deptype in ('a', 'i')
                    and o.refclassid = 'pg_class'::regclass)
order by 1, 2, 3
