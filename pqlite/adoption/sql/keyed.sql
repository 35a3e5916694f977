-- The active jobs with keys: they move while the old table is locked, or a new job could take a key meanwhile.
select j.id from pqlite.pqrun_jobs j where j.status in ('READY', 'RUNNING') and j.dedupe_key is not null
