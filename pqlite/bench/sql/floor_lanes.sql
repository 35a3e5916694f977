select queue, job_type, priority, min(run_after) from pqlite_bench_floor.jobs
where status = 'READY'
group by queue, job_type, priority order by priority desc, queue, job_type
