-- pqlite: serves 1
-- What a migrator and an older pqlite need to know about the schema.

alter table pqlite.migrations
  add column serves int,
  add column functions text;

comment on column pqlite.migrations.serves is
  'The oldest version that a pqlite may have been written for and still work from here on; null: this one.';
comment on column pqlite.migrations.functions is
  'In the latest row: a digest of the functions, of their files and as they are in the catalog.';
