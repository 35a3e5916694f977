-- Workers that are registered, and neither declared dead nor past their lease.
select w.label from pqlite.workers w where w.dead_at is null and w.lease_until > clock_timestamp() order by w.label
