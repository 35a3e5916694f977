-- pqlite: serves 1
-- Pauses of queues, job types and concurrency keys.

create table pqlite.pauses (
  scope     text collate "C" not null,
  name      text collate "C" not null,
  reason    text,
  paused_by text,
  paused_at timestamptz not null default clock_timestamp(),
  until     timestamptz,
  primary key (scope, name),
  constraint pauses_scope_known check (scope in ('queue', 'job_type', 'key')),
  constraint pauses_name_length check (octet_length(name) between 1 and 1024)
);

comment on table pqlite.pauses is 'What no job of is started: queues, job types and concurrency keys.';
comment on column pqlite.pauses.until is 'The end of the pause; null: until it is resumed.';
