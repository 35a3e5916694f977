-- pqlite: serves 1
-- What operators have done: one row for each act on many jobs.

create table pqlite.audit (
  id      bigint generated always as identity primary key,
  at      timestamptz not null default clock_timestamp(),
  actor   text,
  action  text not null,
  target  jsonb not null,
  value   text,
  changed bigint not null
);

comment on table pqlite.audit is 'What operators did to which jobs, for 90 days. See ddl/functions/audited.sql.';
comment on column pqlite.audit.target is 'The filter, or the ids, of the jobs.';
