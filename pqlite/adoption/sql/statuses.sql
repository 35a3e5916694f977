select j.status::text, count(*) from public.jobs j group by 1 order by 1
