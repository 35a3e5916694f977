do $$ begin
  perform pg_advisory_xact_lock(hashtextextended('pqlite migrate', 0));
  if (select max(m.version) from pqlite.migrations m) is distinct from $1 then
    raise exception 'this script is for a schema at version $1';
  end if;
end $$;
