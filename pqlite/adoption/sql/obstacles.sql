-- Why the table cannot be replaced by a view: (whether --force may pass over it, the reason). Short: it is asked again
-- while the table is locked.
select false, format('%s references it: drop that constraint, and make it again on pqlite.jobs afterwards',
                     string_agg(format('%I of %s', k.conname, k.conrelid::regclass), ', ' order by k.conname))
from pg_constraint k where k.contype = 'f' and k.confrelid = 'public.jobs'::regclass having count(*) > 0
union all
select false, format('%s reads it: drop that view, and make it again afterwards',
                     string_agg(distinct r.ev_class::regclass::text, ', '))
from pg_depend d join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
where d.refclassid = 'pg_class'::regclass and d.refobjid = 'public.jobs'::regclass having count(*) > 0
union all
select false, format('its row type is used by %s', string_agg(distinct pg_describe_object(d.classid, d.objid, 0), ', '))
from pg_class c join pg_type t on t.oid = c.reltype
join pg_depend d on d.refclassid = 'pg_type'::regclass and d.refobjid in (t.oid, t.typarray) and d.deptype = 'n'
where c.oid = 'public.jobs'::regclass having count(*) > 0
union all
select false, 'it has child tables or a parent' where exists (
  select from pg_inherits h where 'public.jobs'::regclass in (h.inhparent, h.inhrelid))
union all
select true, format('its triggers would fire no more: %s', string_agg(t.tgname::text, ', ' order by t.tgname))
from pg_trigger t where t.tgrelid = 'public.jobs'::regclass and not t.tgisinternal having count(*) > 0
union all
select true, format('jobs are RUNNING for less than 20 minutes: %s, held by %s; stop pqrun''s workers first', count(*),
                    string_agg(distinct coalesce(j.locked_by, 'nobody'), ', '))
from public.jobs j
where j.status = 'RUNNING' and coalesce(j.locked_at, j.updated_at) > clock_timestamp() - interval '20 minutes'
having count(*) > 0
union all
-- Only those of ours whose ids are in the old table's range are looked up, one by one: mostly none, whatever the history.
select false, 'jobs in pqlite.jobs have the same ids: adopt into a schema without jobs' where exists (
  select from pqlite.jobs p
  where p.id between (select min(j.id) from public.jobs j) and (select max(j.id) from public.jobs j)
    and (select true from public.jobs j where j.id = p.id limit 1))
union all
select false, format('active jobs of both tables have the same dedupe_key; in this one: %s',
                     (array_agg(j.id order by j.id))[1:5])
from public.jobs j
where j.status in ('READY', 'RUNNING') and j.dedupe_key is not null and exists (
  select from pqlite.jobs p where p.dedupe_key = j.dedupe_key and p.status in ('READY', 'RUNNING', 'BLOCKED'))
having count(*) > 0
