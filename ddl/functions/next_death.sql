-- Seconds until another worker could be declared dead at the earliest, if it renews no more; null without others.
create or replace function pqlite.next_death(p_judge text) returns double precision
language sql stable as $$
  select extract(epoch from min(w.renewed_at) + interval '8 s' - clock_timestamp())::double precision
  from pqlite.workers w where w.dead_at is null and w.id <> p_judge;
$$;
