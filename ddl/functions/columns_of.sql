-- For enqueue_on_change: a select list that reads a row of p_table, given as $1, for to_jsonb. Null: to_jsonb of the row
-- itself will do.
--
-- to_jsonb calls a cast to json that the owner of a type has made, and here it would run with the rights of pqlite's
-- owner. So a column of a type that is not the server's own (enum, range, composite, an extension's) is read by its
-- output function, which only a superuser can make: a JSON string, or a list of them. (16384 is the first id of what is
-- made after initdb. Of a domain, to_jsonb looks at the base type only.) The text of an array is that of a text[] unless
-- its type has a delimiter of its own, as PostGIS's geometry has: then each element is read, into one flat list.
create or replace function pqlite.columns_of(p_table oid) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  -- Asked for every row that changes: most tables have built-in types only, and this is quicker than the list.
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
