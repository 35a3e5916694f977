-- pqlite: serves 1
-- settle tells what became of jobs that are not DONE, to workers that ask for it.

select 1;
