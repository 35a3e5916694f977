-- The next jobs to move: those that may still run come first.
select j.id from pqlite.pqrun_jobs j where j.status in ('READY', 'RUNNING') limit $1
