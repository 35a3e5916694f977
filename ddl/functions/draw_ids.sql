-- Ids for new jobs, known before the rows are written: so a batch's ids belong to its rows for certain, whatever the
-- order in which the rows are written and returned.
create or replace function pqlite.draw_ids(p_count int) returns bigint[]
language plpgsql as $$
begin
  return array(select nextval('pqlite.jobs_id_seq') from generate_series(1, p_count));
end $$;
