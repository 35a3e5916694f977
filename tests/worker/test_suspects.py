"""A worker runs the jobs of dead workers side by side, and goes on with the next as soon as one of them has ended."""

import asyncio

import asyncpg
import pytest

from pqlite import JobContext, PgJobStore
from pqlite.events import JobStarted
from tests.support import EventLog
from tests.worker.conftest import Run
from tests.worker.test_claiming import Never


@pytest.mark.parametrize("complete", [False, True], ids=["returns", "completes"])
async def test_the_next_suspect_starts_when_one_of_those_that_run_has_ended(
    run: Run, store: PgJobStore, conn: asyncpg.Connection, log: EventLog, complete: bool
) -> None:
    go_on = asyncio.Semaphore(0)

    async def handler(ctx: JobContext) -> None:
        await go_on.acquire()
        if complete:
            async with ctx.complete():
                pass

    await store.enqueue_many([{"job_type": "t"}] * 4)
    await conn.execute("update pqlite.jobs set crashes = 1")
    async with run({"t": handler}, concurrency=4, idle_policy=Never()):
        for started in (2, 3, 4):
            await log.wait_for(JobStarted, count=started)
            assert await conn.fetchval("select count(*) from pqlite.jobs where status = 'RUNNING'") == 2
            go_on.release()
        go_on.release()
