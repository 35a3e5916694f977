-- pqlite: serves 1
-- Jobs that expire. A large table gets the index in the next step, which does not lock it but waits for open transactions.

do $$ begin
  if pg_relation_size('pqlite.jobs') < 100 * 1024 * 1024 then
    -- expire: waiting jobs that end at some time. Jobs without an expires_at have no entry.
    create index if not exists jobs_expiring on pqlite.jobs (expires_at)
      where expires_at is not null and status in ('READY', 'BLOCKED');
  end if;
end $$;
