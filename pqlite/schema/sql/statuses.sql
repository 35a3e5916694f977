select j.status, count(*) from pqlite.jobs j group by j.status order by j.status
