"""A database as pqrun leaves it: its table, its clients' statements."""

import asyncpg

TABLE = """
create type {space}job_status as enum ('READY', 'RUNNING', 'DONE', 'FAILED', 'CANCELLED');
create table {table} (
  id bigserial primary key,
  job_type text not null, payload jsonb not null default '{{}}', status {space}job_status not null default 'READY',
  priority int not null default 0, attempts int not null default 0, max_attempts int not null default 5,
  run_after timestamptz not null default now(), timeout_seconds int, locked_at timestamptz, locked_by text,
  dedupe_key text, last_error text, finished_at timestamptz, duration_ms int, result jsonb,
  created_at timestamptz not null default now(), updated_at timestamptz not null default now()
);
create index idx_jobs_pick on {table} (status, run_after, priority desc, id);
create index idx_jobs_type on {table} (job_type);
create unique index uq_jobs_active_dedupe on {table} (dedupe_key)
  where dedupe_key is not null and status in ('READY', 'RUNNING');
"""

ENQUEUE = """
insert into jobs (job_type, payload, dedupe_key, run_after, priority, max_attempts, timeout_seconds)
values ($1, $2::jsonb, $3, $4, $5, $6, $7)
on conflict (dedupe_key) where dedupe_key is not null and status in ('READY', 'RUNNING')
do update set updated_at = now() returning id
"""
"""What pqrun's store sends."""

BATCH = """
insert into jobs (job_type, payload, dedupe_key, priority)
select 't', jsonb_build_object('n', n), 'batch:' || n, 10 from generate_series(1, 3) n
where not exists (select from jobs j where j.dedupe_key = 'batch:' || n and j.status in ('READY', 'RUNNING'))
on conflict (dedupe_key) where dedupe_key is not null and status in ('READY', 'RUNNING') do nothing
"""
"""What pg_cron sends."""


async def install(conn: asyncpg.Connection, table: str = "public.jobs") -> None:
    space = table.partition(".")[0]
    await conn.execute(f"create schema if not exists {space}")
    await conn.execute(TABLE.format(table=table, space=f"{space}."))
