-- pqlite: serves 1
-- What shows that the server has run without a crash, a restart or a failover since a worker's renewals began, so that
-- a new worker may judge others as soon as those before it might have; see functions/current_epoch.sql.

create unlogged table pqlite.epoch (
  only_one boolean primary key default true check (only_one),
  id       uuid not null default gen_random_uuid()
);

comment on table pqlite.epoch is
  'One row; being unlogged, it is gone after a crash of the server or a failover, and made anew with another id.';

alter table pqlite.workers add column epoch text;

comment on column pqlite.workers.epoch is 'What current_epoch returned when steady_since began.';
