"""Claims whose answer was lost on the way are given back, with the attempt refunded."""

import asyncpg

from pqlite import NewJob, PgJobStore
from tests.store.workers import RegisteredWorker, fetch_job


async def test_what_a_worker_holds_by_name_and_does_not_know_is_ready_again_without_an_attempt(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue_many([NewJob(job_type="t", queue="q", priority=3)] * 3)
    known, *unknown = await worker.claim()

    released = await worker.disown([known.id])

    assert released == [job.id for job in unknown]
    for job in unknown:
        row = await fetch_job(conn, job.id)
        assert (row["status"], row["attempts"], row["claims"], row["crashes"]) == ("READY", 0, 1, 0)
        assert (row["run_after"], row["locked_by"], row["finished_at"]) == (job.run_after, None, None)
    assert (await fetch_job(conn, known.id))["status"] == "RUNNING"


async def test_claims_older_than_the_window_and_rows_locked_by_strangers_are_left_alone(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue_many([NewJob(job_type="t")] * 2)
    old, locked = await worker.claim()
    await conn.execute("update pqlite.jobs set locked_at = locked_at - interval '2 minutes' where id = $1", old.id)

    async with conn.transaction():
        await conn.execute("select from pqlite.jobs where id = $1 for update", locked.id)
        assert await worker.disown() == []
