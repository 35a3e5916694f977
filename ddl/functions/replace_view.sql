-- Replace a view, also if its columns change; its owner and the grants on it stay. If its text has not changed (its
-- hash is in the view's comment) it is not replaced, because that waits for all sessions that read it. Views of yours
-- that depend on it must be dropped before.
create or replace procedure pqlite.replace_view(p_name text, p_query text)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_name text := format('pqlite.%I', p_name);
  v_mark text := format('See ddl/views/%s.sql (%s).', p_name, hashtextextended(p_query, 0));
  v_old record;
  v_grant record;
begin
  select c.oid, c.relowner, c.relacl, obj_description(c.oid, 'pg_class') as mark into v_old
  from pg_class c where c.oid = to_regclass(v_name);
  if v_old.mark = v_mark then
    return;
  elsif v_old.oid is not null then
    execute format('drop view %s', v_name);
  end if;
  execute format('create view %s as %s', v_name, p_query);
  execute format('comment on view %s is %L', v_name, v_mark);
  if v_old.oid is not null then
    execute format('alter view %s owner to %s', v_name, v_old.relowner::regrole);
    for v_grant in select * from aclexplode(v_old.relacl) a where a.grantee <> v_old.relowner loop
      execute format('grant %s on %s to %s%s', v_grant.privilege_type, v_name,
                     case v_grant.grantee when 0 then 'public' else v_grant.grantee::regrole::text end,
                     case when v_grant.is_grantable then ' with grant option' end);
    end loop;
  end if;
end $$;
