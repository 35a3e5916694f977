-- Cancel waiting jobs whose expires_at has passed, at most p_limit; return their ids. Claims never start such a job, so
-- it does not matter when this runs; workers call it every few seconds.
-- One of the six functions in which jobs end; the others: settle, complete, cancel, take_over, disown.
create or replace function pqlite.expire(p_limit int default 500) returns setof bigint
language plpgsql set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
  v_now timestamptz := clock_timestamp();
  v_ids bigint[] := array(
    select j.id from pqlite.jobs j
    where j.expires_at is not null and j.status in ('READY', 'BLOCKED') and j.expires_at <= v_now
    order by j.expires_at limit p_limit for no key update skip locked);
begin
  if v_ids <> '{}' then
    return query
    update pqlite.jobs j
    set status = 'CANCELLED', finished_at = v_now, updated_at = v_now,
        last_error = 'expired: it was not started before ' || to_char(j.expires_at, 'YYYY-MM-DD HH24:MI:SS OF')
    where j.id = any (v_ids)
    returning j.id;
  end if;
end $$;
