-- The next jobs to move when none can run any more: from an id on, so that dead index entries are not visited again.
select j.id from pqlite.pqrun_jobs j where j.id > $2 order by j.id limit $1
