-- Jobs that pqlite.jobs cannot hold; the first five of each reason. Reads the whole table.
select u.reason, array_agg(u.id order by u.id) from (
  select r.reason, j.id, row_number() over (partition by r.reason order by j.id) as n
  from public.jobs j
  cross join lateral (values
    ('a job_type of no or more than 200 bytes', octet_length(j.job_type) not between 1 and 200),
    ('an active dedupe_key of no or more than 1024 bytes',
      j.status::text in ('READY', 'RUNNING') and octet_length(j.dedupe_key) not between 1 and 1024),
    ('run_after or created_at before 1900 or after 9998',
      not (j.run_after >= '1900-01-01 00:00+00' and j.run_after < '9999-01-01 00:00+00'
           and j.created_at >= '1900-01-01 00:00+00' and j.created_at < '9999-01-01 00:00+00')),
    ('a status that pqrun does not know',
      j.status::text not in ('READY', 'RUNNING', 'DONE', 'FAILED', 'CANCELLED'))
  ) r (reason, unfit)
  where r.unfit
) u where u.n <= 5 group by u.reason order by u.reason
