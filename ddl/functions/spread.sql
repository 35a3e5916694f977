-- Repeat the element of an array with one element for all rows of a batch: a common value is sent only once.
create or replace function pqlite.spread(p_values anyarray, p_count int) returns anyarray
language sql immutable parallel safe as $$
  select case when cardinality(p_values) = 1 and p_count > 1 then array_fill(p_values[1], array[p_count])
              else p_values end
$$;
