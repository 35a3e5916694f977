-- The next id of ours is beyond all of the old table's.
select pg_catalog.setval('pqlite.jobs_id_seq', greatest((select s.last_value from pqlite.jobs_id_seq s),
                                             (select max(j.id) from public.jobs j)))
