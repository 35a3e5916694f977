-- The next id of ours is beyond all of the old table's, and beyond $1 more, which producers may draw from its sequence
-- before the switch. Returns what it is beyond of. Only while nextval waits, or this could set the sequence back.
select case when w.id > s.last_value then setval('pqlite.jobs_id_seq', w.id) else s.last_value end
from pqlite.jobs_id_seq s, (select greatest(max(j.id), 0) + $1::bigint as id from public.jobs j) w
