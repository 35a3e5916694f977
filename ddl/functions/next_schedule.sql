-- In how many seconds the next schedule is due, negative if it is overdue; null: there is none. Workers ask with each
-- renewal of their lease.
create or replace function pqlite.next_schedule() returns double precision
language sql set search_path = pg_catalog, pg_temp as $$
  select extract(epoch from s.next_at - clock_timestamp())::double precision
  from pqlite.schedules s where s.next_at is not null order by s.next_at limit 1;
$$;
