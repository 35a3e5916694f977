-- Record what an operator has done to jobs, and delete some of the records that are older than 90 days.
create or replace function pqlite.audited(p_actor text, p_action text, p_target jsonb, p_value text, p_changed bigint)
returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  insert into pqlite.audit (actor, action, target, value, changed)
  values (p_actor, p_action, p_target, p_value, p_changed);
  delete from pqlite.audit a
  where a.id in (select o.id from pqlite.audit o order by o.id limit 100) and a.at < clock_timestamp() - interval '90 days';
end $$;
