-- Ids for new jobs, known before the rows are written: so a batch's ids belong to its rows for certain, whatever the
-- order in which the rows are written and returned.
-- SECURITY DEFINER, so that a role that may only INSERT needs no right on the sequence.
create or replace function pqlite.draw_ids(p_count int) returns bigint[]
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  return array(select nextval('pqlite.jobs_id_seq') from generate_series(1, p_count));
end $$;
