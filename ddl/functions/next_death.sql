-- In how many seconds p_judge could declare another worker dead at the earliest, if that worker does not renew again (8
-- if no other is alive, or p_judge is not registered); null if no other worker is registered, dead or alive: then there
-- is nothing to reap.
create or replace function pqlite.next_death(p_judge text) returns double precision
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(extract(epoch from min(greatest(w.renewed_at, (select j.steady_since from pqlite.workers j
                                                                 where j.id = p_judge)))
                                       filter (where w.dead_at is null)
                                     + interval '8 s' - clock_timestamp()), 8)::double precision
  from pqlite.workers w where w.id <> p_judge
  having count(*) > 0;
$$;
