-- Delete finished jobs: DONE ones after 7 days, FAILED and CANCELLED ones after 30. Workers do this by themselves
-- (Worker(retain_done=, retain_failed=)); this is for tables that keep everything and are cleaned up by hand.
--
--   psql -f cleanup.sql app          outside of any transaction

do $$
declare
  v_cursor bigint;
  v_deleted int;
  v_total bigint := 0;
begin
  loop
    select p.next_cursor, p.deleted into v_cursor, v_deleted from pqlite.prune('7 days', '30 days', v_cursor, 10000) p;
    commit;  -- each chunk by itself: one long transaction would keep vacuum from its work
    v_total := v_total + v_deleted;
    exit when v_cursor is null and v_deleted = 0;
  end loop;
  raise notice '% jobs deleted', v_total;
end $$;
