-- pqlite: serves 1
-- The function `progress` stores the progress of running jobs.

select 1;
