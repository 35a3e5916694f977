-- Ids for new jobs, drawn before the rows are written, so that each row of a batch gets a known id, in whatever order
-- the rows are written and returned.
create or replace function pqlite.draw_ids(p_count int) returns bigint[]
language plpgsql as $$
begin
  return array(select nextval('pqlite.jobs_id_seq') from generate_series(1, p_count));
end $$;
