-- The functions, views and triggers as they are: changes when somebody replaces, drops or adds one, or lets everybody
-- execute one.
select md5(coalesce(string_agg(o.definition, e'\n' order by o.definition collate "C"), '')) from (
  select concat_ws(' ', exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                                where a.grantee = 0), pg_get_functiondef(p.oid))
  from pg_proc p
  where p.pronamespace = 'pqlite'::regnamespace and p.prokind in ('f', 'p')
  union all
  select concat_ws(' ', c.relname, c.reloptions, r.ev_action) from pg_class c join pg_rewrite r on r.ev_class = c.oid
  where c.relnamespace = 'pqlite'::regnamespace and c.relkind = 'v'
  union all
  select concat_ws(' ', c.relname, t.tgname, t.tgfoid, t.tgtype, t.tgenabled)
  from pg_trigger t join pg_class c on c.oid = t.tgrelid
  where c.relnamespace = 'pqlite'::regnamespace and not t.tgisinternal
) o (definition)
