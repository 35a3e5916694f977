-- Triggers that call the schema's functions: these go before the functions can.
select format('%I on %s', t.tgname, t.tgrelid::regclass) from pg_trigger t
join pg_class c on c.oid = t.tgrelid join pg_proc p on p.oid = t.tgfoid
where not t.tgisinternal and c.relnamespace = 'pqlite'::regnamespace and p.pronamespace = 'pqlite'::regnamespace
