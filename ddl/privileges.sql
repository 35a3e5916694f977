-- Nobody calls a function without a grant: PostgreSQL gives EXECUTE on a new one to everybody. Run after functions/ and
-- views/ have been replaced; what was granted to roles before stays.
revoke execute on all routines in schema pqlite from public;
