-- From the catalog and not by to_regclass, which may answer from what the session knew before it waited for a lock.
select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
               where n.nspname = $1 and c.relname = 'migrations')
