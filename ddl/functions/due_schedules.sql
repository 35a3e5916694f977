-- The schedules that are due, soonest first, at most p_limit; and the soonest of the others, so that the caller knows
-- when to ask again. `now` is this server's clock, which decides what is due.
create or replace function pqlite.due_schedules(p_limit int)
returns table (name text, revision bigint, cron text, every interval, anchor timestamptz, timezone text, missed text,
               jitter interval, handled_through timestamptz, held boolean, next_at timestamptz, now timestamptz)
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
begin
  return query
  (select s.name, s.revision, s.cron, s.every, s.anchor, s.timezone, s.missed, s.jitter, s.handled_through,
          s.held_since is not null, s.next_at, v_now
   from pqlite.schedules s where s.next_at <= v_now order by s.next_at limit p_limit)
  union all
  (select s.name, s.revision, s.cron, s.every, s.anchor, s.timezone, s.missed, s.jitter, s.handled_through,
          s.held_since is not null, s.next_at, v_now
   from pqlite.schedules s where s.next_at > v_now order by s.next_at limit 1);
end $$;
