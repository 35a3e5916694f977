-- pqlite: serves 1
-- Schedules: jobs that are enqueued again and again.

create table pqlite.schedules (
  name            text collate "C" primary key,
  -- What is enqueued.
  job_type        text collate "C" not null,
  payload         jsonb not null default '{}',
  queue           text collate "C" not null default 'default',
  priority        int not null default 0,
  max_attempts    int not null default 5,
  timeout_seconds double precision,
  tags            text[] not null default '{}',
  metadata        jsonb not null default '{}',
  concurrency_key text,
  -- When: by one of the two.
  cron            text,
  every           interval,
  anchor          timestamptz not null default '1970-01-01 00:00+00',
  timezone        text not null default 'UTC',
  overlap         text not null default 'skip',
  missed          text not null default 'latest',
  jitter          interval not null default '0',
  -- Where it stands.
  next_at         timestamptz default clock_timestamp(),
  handled_through timestamptz not null default clock_timestamp(),
  held_since      timestamptz,
  paused_at       timestamptz,
  disabled_at     timestamptz,
  revision        bigint not null default 1,
  -- Which code defines it.
  defined_in      text not null default 'row',
  definition      text,
  superseded      text[] not null default '{}',
  defined_at      timestamptz,
  seen_at         timestamptz,
  -- What became of it.
  last_slot       timestamptz,
  last_fired_at   timestamptz,
  last_job_id     bigint,
  fired           bigint not null default 0,
  skipped         bigint not null default 0,
  missed_slots    bigint not null default 0,
  problem         text,
  created_at      timestamptz not null default clock_timestamp(),
  updated_at      timestamptz not null default clock_timestamp(),
  constraint schedules_name_length check (octet_length(name) between 1 and 200),
  constraint schedules_one_timing check ((cron is null) <> (every is null)),
  -- Months and years are no fixed time; a day has 24 hours.
  constraint schedules_every_fixed check (
    date_part('year', every) = 0 and date_part('month', every) = 0 and every >= interval '1 s'),
  constraint schedules_overlap_known check (overlap in ('skip', 'queue', 'allow')),
  constraint schedules_missed_known check (missed in ('latest', 'skip', 'all')),
  constraint schedules_jitter_short check (jitter >= interval '0' and jitter < interval '1 day'),
  constraint schedules_defined_in_known check (defined_in in ('code', 'row')),
  constraint schedules_tags_array check (array_ndims(tags) is null or array_ndims(tags) = 1),
  constraint schedules_metadata_object check (jsonb_typeof(metadata) = 'object'),
  -- What a client can decode: one row that it cannot would stop all of them.
  constraint schedules_times_in_range check (
    handled_through >= '1900-01-01 00:00+00' and handled_through < '9999-01-01 00:00+00'
    and (next_at is null or next_at >= '1900-01-01 00:00+00' and next_at < '9999-01-01 00:00+00')
    and anchor >= '1900-01-01 00:00+00' and anchor < '9999-01-01 00:00+00')
) with (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 1000,
  vacuum_truncate = off
);

comment on table pqlite.schedules is 'One row per schedule. Change them by pqlite.change_schedule, or by plain SQL.';
comment on column pqlite.schedules.next_at is
  'When a worker looks at it: its next slot, or at once after a change; null while it is paused or disabled.';
comment on column pqlite.schedules.handled_through is 'Slots up to here have fired or are given up: none fires twice.';
comment on column pqlite.schedules.revision is 'Raised by each change of what it does.';
comment on column pqlite.schedules.definition is 'A digest of what the code says, if code defines it.';
comment on column pqlite.schedules.superseded is 'The digests of earlier releases, which leave the newer one alone.';

-- due_schedules, renewals: the soonest.
create index schedules_next on pqlite.schedules (next_at) where next_at is not null;
