lock table public.jobs in access exclusive mode;
lock table pqlite.jobs in share row exclusive mode;
