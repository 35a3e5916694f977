-- Record the owner of each function and the grants on it. Run before functions/ are replaced: a function that is
-- dropped and made anew would lose both; privileges.sql restores them. Kept in a setting of this transaction only.
do $$ begin
  perform set_config('pqlite_settings.grants', coalesce((
    select jsonb_agg(jsonb_build_object(
             'oid', p.oid, 'name', p.proname, 'owner', p.proowner,
             'grants', (select jsonb_agg(jsonb_build_object('grantee', a.grantee, 'grantable', a.is_grantable))
                        from aclexplode(p.proacl) a where a.grantee not in (0, p.proowner))))
    from pg_proc p where p.pronamespace = 'pqlite'::regnamespace)::text, '[]'), true);
end $$;
