select max(j.id) from public.jobs j
