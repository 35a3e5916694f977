-- Many jobs in one statement: all of them, or none.
--
--   psql -f batch_enqueue.sql app

-- From a query. An array of one element stands for all jobs; what is not given becomes the default.
select count(*) as enqueued
from unnest(pqlite.enqueue_keyless(
  p_job_type => '{send_newsletter}',
  p_payload => (select array_agg(jsonb_build_object('user_id', n)::text) from generate_series(1, 1000) n),
  p_queue => '{mail}'));

-- With keys, so that repeating it adds nothing: one verdict per job, told apart by its ordinal.
select ordinal, id, inserted
from pqlite.enqueue_many(
  p_job_type => '{invoice}',
  p_payload => array['{"customer": 1}', '{"customer": 2}', '{"customer": 3}'],
  p_dedupe_key => '{invoice:1:2030-01,invoice:2:2030-01,invoice:3:2030-01}',
  p_run_after => '{2030-01-31 06:00 UTC}')
order by ordinal;

-- The same with plain SQL, by a role that may insert into the table. Workers that sleep are woken, too.
insert into pqlite.jobs (job_type, payload, dedupe_key)
select 'invoice', jsonb_build_object('customer', n), 'invoice:' || n || ':2030-01'
from generate_series(1, 4) n
on conflict (dedupe_key) where dedupe_key is not null and status in ('READY', 'RUNNING') do nothing;
