-- Functions are only callable with a grant; by default PostgreSQL grants EXECUTE on a new one to PUBLIC. Run after
-- functions/ and views/ have been replaced; what was granted to roles before stays.
revoke execute on all routines in schema pqlite from public;

-- A function that was dropped and made anew gets the owner and the grants that grants.sql found on the former one.
do $$
declare
  v_new record;
  v_grant record;
begin
  for v_new in
    select p.oid::regprocedure::text as signature, p.proowner as owner, f.former
    from pg_proc p
    join jsonb_array_elements(current_setting('pqlite_settings.grants')::jsonb) f (former)
      on f.former ->> 'name' = p.proname
    where p.pronamespace = 'pqlite'::regnamespace
      and not exists (select from pg_proc o where o.oid = (f.former ->> 'oid')::oid)
  loop
    if v_new.owner <> (v_new.former ->> 'owner')::oid then
      execute format('alter routine %s owner to %s', v_new.signature, (v_new.former ->> 'owner')::oid::regrole);
    end if;
    for v_grant in
      select g.grantee, g.grantable
      from jsonb_to_recordset(case when jsonb_typeof(v_new.former -> 'grants') = 'array' then v_new.former -> 'grants'
                                   else '[]' end) g (grantee oid, grantable boolean)
    loop
      execute format('grant execute on routine %s to %s%s', v_new.signature, v_grant.grantee::regrole,
                     case when v_grant.grantable then ' with grant option' else '' end);
    end loop;
  end loop;
end $$;

-- A role that may execute claim is that of a worker. Grant it EXECUTE on new functions without grants, so that workers
-- go on after a migration. (Not the procedure, which is the migrator's.)
do $$
declare
  v_worker record;
  v_new text;
begin
  for v_worker in
    select distinct a.grantee from pg_proc p cross join lateral aclexplode(p.proacl) a
    where p.pronamespace = 'pqlite'::regnamespace and p.proname = 'claim' and a.grantee not in (0, p.proowner)
  loop
    for v_new in
      select p.oid::regprocedure::text from pg_proc p
      where p.pronamespace = 'pqlite'::regnamespace and p.prokind = 'f'
        and not exists (select from jsonb_array_elements(current_setting('pqlite_settings.grants')::jsonb) f
                        where f ->> 'name' = p.proname)
    loop
      execute format('grant execute on function %s to %s', v_new, v_worker.grantee::regrole);
    end loop;
  end loop;
end $$;
