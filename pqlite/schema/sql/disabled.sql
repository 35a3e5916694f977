-- Whether the trigger that wakes workers does not fire for ordinary sessions: 'D' is disabled, 'R' fires on replicas only.
select exists (select from pg_trigger t
               where t.tgrelid = 'pqlite.jobs'::regclass and t.tgname = 'jobs_inserted' and t.tgenabled in ('D', 'R'))
