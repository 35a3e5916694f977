-- Raise the error of an enqueue that repeatedly neither inserted a row nor found the active job with its key.
create or replace function pqlite.unanswered(p_dedupe_key text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- A BEFORE INSERT trigger may suppress the row: then it would not help to repeat the transaction.
  if exists (select from pg_trigger t where t.tgrelid = 'pqlite.jobs'::regclass and not t.tgisinternal
               and t.tgenabled <> 'D' and t.tgtype & 7 = 7) then
    raise exception 'a trigger on the jobs table has suppressed the job with the dedupe key %',
      coalesce(quote_literal(p_dedupe_key), 'null');
  end if;
  raise exception 'the dedupe key % kept changing hands', coalesce(quote_literal(p_dedupe_key), 'null')
    using errcode = '40001';
end $$;
