-- pqlite: no transaction
-- pqlite: serves 1
-- expire: waiting jobs that end at some time. Jobs without an expires_at have no entry.
create index concurrently if not exists jobs_expiring on pqlite.jobs (expires_at)
  where expires_at is not null and status in ('READY', 'BLOCKED');
