-- Every lane (queue, job_type, priority) that has READY jobs, with the first of them: a loose index scan of jobs_ready,
-- one probe per lane, 15 us each. p_queues null means every queue, p_types null every type. Beyond p_limit lanes, the
-- last queues by name wait until those before them run dry.
-- (PostgreSQL wiki, "Loose indexscan".)
create or replace function pqlite.lanes(p_queues text[], p_types text[], p_limit int default 10000)
returns table (queue text, job_type text, priority int, run_after timestamptz, id bigint)
language plpgsql stable set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off as $$
#variable_conflict use_column
declare
  v_queue text := '';
  v_type text;
  v_head record;
  v_found int := 0;
begin
  loop
    select j.queue, j.job_type into v_head from pqlite.jobs j
    where j.status = 'READY' and j.crashes = 0 and j.queue > v_queue
    order by j.queue, j.job_type limit 1;
    exit when not found;
    v_queue := v_head.queue;
    continue when p_queues is not null and v_queue <> all (p_queues);
    v_type := '';
    loop
      -- The next type that is both there and wanted.
      select j.job_type into v_type from pqlite.jobs j
      where j.status = 'READY' and j.crashes = 0 and j.queue = v_queue and j.job_type > v_type
      order by j.job_type limit 1;
      exit when not found;
      continue when p_types is not null and v_type <> all (p_types);
      select j.priority, j.run_after, j.id into v_head from pqlite.jobs j
      where j.status = 'READY' and j.crashes = 0 and j.queue = v_queue and j.job_type = v_type
      order by j.priority desc, j.run_after, j.id limit 1;
      while found loop
        return query select v_queue, v_type, v_head.priority, v_head.run_after, v_head.id;
        v_found := v_found + 1;
        if v_found >= p_limit then return; end if;
        select j.priority, j.run_after, j.id into v_head from pqlite.jobs j
        where j.status = 'READY' and j.crashes = 0 and j.queue = v_queue and j.job_type = v_type
          and j.priority < v_head.priority
        order by j.priority desc, j.run_after, j.id limit 1;
      end loop;
    end loop;
  end loop;
end $$;
