-- Seconds until another worker could be declared dead at the earliest, if it renews no more (8 without one that lives);
-- null if no other worker is registered, dead or alive, so that there is nothing to reap.
create or replace function pqlite.next_death(p_judge text) returns double precision
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(extract(epoch from min(w.renewed_at) filter (where w.dead_at is null) + interval '8 s'
                                     - clock_timestamp()), 8)::double precision
  from pqlite.workers w where w.id <> p_judge
  having count(*) > 0;
$$;
