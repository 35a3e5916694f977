-- Nobody calls a function without a grant: PostgreSQL gives EXECUTE on a new one to everybody. Run after functions/ and
-- views/ have been replaced; what was granted to roles before stays.
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
