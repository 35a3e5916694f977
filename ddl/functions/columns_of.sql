-- For enqueue_on_change: returns a select list that reads a row of p_table, given as $1, for to_jsonb; null if to_jsonb
-- can be applied to the row itself.
--
-- to_jsonb calls casts to json that the owner of a type has defined, and they would run here with the rights of
-- pqlite's owner. So columns of types that are not built in (enums, ranges, composites, types of extensions) are read
-- by the output function of the type, which only a superuser can define: as a JSON string, or a list of strings.
-- (Objects created after initdb have ids from 16384. For a domain, to_jsonb looks only at the base type.) An array is
-- read as a text[], unless its type has another delimiter, as PostGIS's geometry has: then its elements become one flat
-- list.
create or replace function pqlite.columns_of(p_table oid) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  -- Called for every changed row: most tables have only built-in types, and this check is fast.
  if not exists (select from pg_attribute a join pg_type t on t.oid = a.atttypid
                 where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped
                   and coalesce(nullif(t.typbasetype, 0), t.oid) >= 16384) then
    return null;
  end if;
  return (
    select string_agg(
             format(case when coalesce(nullif(t.typbasetype, 0), t.oid) < 16384 then '($1).%1$I'
                         when t.typcategory = 'A' and t.typdelim <> ',' then
                           'case when num_nulls(($1).%1$I) = 0 then array(
                              select case when num_nulls(e) = 0 then format(''%%s'', e) end
                              from unnest(($1).%1$I) with ordinality u (e, i) order by i) end as %1$I'
                         when t.typcategory = 'A' then
                           'case when num_nulls(($1).%1$I) = 0 then format(''%%s'', ($1).%1$I)::text[] end as %1$I'
                         else
                           'case when num_nulls(($1).%1$I) = 0 then format(''%%s'', ($1).%1$I) end as %1$I' end,
                    a.attname),
             ', ' order by a.attnum)
    from pg_attribute a join pg_type t on t.oid = a.atttypid
    where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped);
end $$;
