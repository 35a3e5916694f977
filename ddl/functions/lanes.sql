-- The lanes (queue, job_type, priority) that have READY jobs, with the first of each: a loose scan of jobs_ready, one
-- probe per lane. (PostgreSQL wiki, "Loose indexscan".) p_queues null means every queue, p_types null every type.
--
-- Of the lanes the caller knows (parallel arrays in index order) the first job behind their watermark is returned, and
-- only the gaps between them are scanned: index entries of jobs already claimed, which vacuum may not be allowed to
-- remove, are stepped over by neither. Without known lanes every lane is scanned from its beginning.
--
-- Of the jobs that are not due yet only the soonest is returned; p_limit counts the lanes found that were not known.
create or replace function pqlite.lanes(
  p_queues text[], p_types text[], p_queue text[] default '{}', p_type text[] default '{}', p_priority int[] default '{}',
  p_after timestamptz[] default '{}', p_after_id bigint[] default '{}', p_limit int default 10000)
returns table (queue text, job_type text, priority int, run_after timestamptz, id bigint)
language plpgsql stable set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off as $$
#variable_conflict use_column
declare
  -- Longer than any job type may be, and behind all of them.
  c_end constant text collate "C" := repeat(chr(1114111), 51);
  v_known int := cardinality(p_queue);
  v_queue text collate "C" := '';
  v_type text collate "C" := '';
  v_minus int := -2147483647;
  v_now timestamptz := clock_timestamp();
  v_soonest timestamptz := 'infinity';
  v_head record;
  v_later record;
  v_found int := 0;
begin
  for i in 1 .. v_known + 1 loop
    loop  -- the gap before lane i
      if i <= v_known then
        select j.queue, j.job_type, j.priority, j.run_after, j.id into v_head from pqlite.jobs j
        where j.status = 'READY' and j.crashes = 0
          and (j.queue, j.job_type, -j.priority) > (v_queue, v_type, v_minus)
          and (j.queue, j.job_type, -j.priority) < (p_queue[i], p_type[i], -p_priority[i])
        order by j.queue, j.job_type, -j.priority, j.run_after, j.id limit 1;
      else
        select j.queue, j.job_type, j.priority, j.run_after, j.id into v_head from pqlite.jobs j
        where j.status = 'READY' and j.crashes = 0
          and (j.queue, j.job_type, -j.priority) > (v_queue, v_type, v_minus)
        order by j.queue, j.job_type, -j.priority, j.run_after, j.id limit 1;
      end if;
      exit when not found;
      v_queue := v_head.queue;
      if p_queues is not null and v_queue <> all (p_queues) then
        v_type := c_end;  -- on to the next queue
      else
        v_type := v_head.job_type;
        if p_types is not null and v_type <> all (p_types) then
          v_minus := 2147483647;  -- on to the next type
        else
          v_minus := -v_head.priority;
          if v_head.run_after <= v_now then
            return query select v_queue, v_type, v_head.priority, v_head.run_after, v_head.id;
            v_found := v_found + 1;
            if v_found >= p_limit then return; end if;
          elsif v_head.run_after < v_soonest then
            v_soonest := v_head.run_after;
            v_later := v_head;
          end if;
        end if;
      end if;
    end loop;
    exit when i > v_known;
    v_queue := p_queue[i];
    v_type := p_type[i];
    v_minus := -p_priority[i];
    select j.queue, j.job_type, j.priority, j.run_after, j.id into v_head from pqlite.jobs j
    where j.status = 'READY' and j.crashes = 0 and j.queue = v_queue and j.job_type = v_type and -j.priority = v_minus
      and (j.run_after, j.id) > (p_after[i], p_after_id[i])
    order by j.run_after, j.id limit 1;
    if found and v_head.run_after <= v_now then
      return query select v_queue, v_type, v_head.priority, v_head.run_after, v_head.id;
    elsif found and v_head.run_after < v_soonest then
      v_soonest := v_head.run_after;
      v_later := v_head;
    end if;
  end loop;
  if v_soonest < 'infinity' then
    return query select v_later.queue, v_later.job_type, v_later.priority, v_later.run_after, v_later.id;
  end if;
end $$;
