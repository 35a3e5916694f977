"""A handler that enqueues the dedupe key of its own job, and keys of jobs that are being cancelled."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from pqlite import Fail, HeldByCancelledJob, HeldByThisJob, JobContext, JobStatus, NewJob, PgJobStore, schema
from tests.support import ended, sqlalchemy_url
from tests.worker.conftest import Run

KEY = "poll:7"


async def test_a_chain_of_fifty_jobs_with_one_key_does_not_die_out(
    run: Run, store: PgJobStore, conn: asyncpg.Connection
) -> None:
    finished = asyncio.Event()

    async def poll(ctx: JobContext) -> None:
        async with ctx.complete() as tx:
            if ctx.job.payload == 50:
                finished.set()
                return
            follow_up = await ctx.store.enqueue("poll", ctx.job.payload + 1, dedupe_key=KEY, conn=tx)
            assert follow_up != ctx.job.id

    async with run({"poll": poll}):
        await store.enqueue("poll", 1, dedupe_key=KEY)
        async with asyncio.timeout(30):
            await finished.wait()

    rows = await conn.fetch("select payload::text::int, status, attempts from pqlite.jobs order by id")
    assert [tuple(row) for row in rows] == [(n, "DONE", 1) for n in range(1, 51)]


@pytest.mark.parametrize("way", ["many", "twice", "after a savepoint that was rolled back"])
async def test_a_follow_up_with_the_jobs_own_key_exists_with_done_or_not_at_all(
    run: Run, store: PgJobStore, conn: asyncpg.Connection, way: str
) -> None:
    async def poll(ctx: JobContext) -> None:
        async with ctx.complete(result="first") as tx:
            if way == "many":
                jobs = [NewJob(job_type="later", dedupe_key=KEY), NewJob(job_type="later", dedupe_key="other")]
                assert [verdict.inserted for verdict in await store.enqueue_many(jobs, conn=tx)] == [True, True]
            elif way == "twice":
                first = await store.enqueue("later", dedupe_key=KEY, conn=tx)
                assert await store.enqueue("later", dedupe_key=KEY, conn=tx) == first
            else:
                savepoint = tx.transaction()
                await savepoint.start()
                await store.enqueue("undone", dedupe_key=KEY, conn=tx)
                await savepoint.rollback()
                if ctx.job.payload == "again":
                    await store.enqueue("later", dedupe_key=KEY, conn=tx)

    async with run({"poll": poll}):
        payload = "again" if way.startswith("after") else None
        job = await ended(store, await store.enqueue("poll", payload, dedupe_key=KEY))

    assert (job.status, job.result, job.attempts) == (JobStatus.DONE, "first", 1)
    found = await conn.fetch("select job_type from pqlite.jobs where dedupe_key = $1 and status = 'READY'", KEY)
    assert [row[0] for row in found] == ["later"]


async def test_a_block_that_raises_after_its_follow_up_leaves_neither_it_nor_done(
    run: Run, store: PgJobStore, conn: asyncpg.Connection
) -> None:
    async def poll(ctx: JobContext) -> None:
        async with ctx.complete() as tx:
            await ctx.store.enqueue("later", dedupe_key=KEY, conn=tx)
            raise Fail("no")

    async with run({"poll": poll}):
        job = await ended(store, await store.enqueue("poll", dedupe_key=KEY))

    assert job.status is JobStatus.FAILED
    assert await conn.fetchval("select count(*) from pqlite.jobs") == 1


Enqueue = Callable[[JobContext, PgJobStore], Awaitable[Any]]


async def one(ctx: JobContext, store: PgJobStore) -> None:
    await ctx.store.enqueue("poll", dedupe_key=KEY)


async def many(ctx: JobContext, store: PgJobStore) -> None:
    await ctx.store.enqueue_many([NewJob(job_type="t"), NewJob(job_type="poll", dedupe_key=KEY)])


async def through_another_store_in_a_task(ctx: JobContext, store: PgJobStore) -> None:
    await asyncio.create_task(store.enqueue("poll", dedupe_key=KEY))


async def in_its_own_transaction(ctx: JobContext, store: PgJobStore) -> None:
    async with store.transaction() as tx:
        await store.enqueue("poll", dedupe_key=KEY, conn=tx)


@pytest.mark.parametrize("enqueue", [one, many, through_another_store_in_a_task, in_its_own_transaction])
async def test_outside_of_its_completion_a_job_that_enqueues_its_own_key_is_told_to_complete_first(
    run: Run, dsn: str, store: PgJobStore, conn: asyncpg.Connection, enqueue: Enqueue
) -> None:
    told: list[HeldByThisJob] = []

    async def poll(ctx: JobContext) -> None:
        async with PgJobStore(dsn=dsn) as another:
            with pytest.raises(HeldByThisJob, match=r"'poll:7'.*Complete the job first") as raised:
                await enqueue(ctx, another)
        told.append(raised.value)

    async with run({"poll": poll}):
        job = await ended(store, await store.enqueue("poll", dedupe_key=KEY))

    assert job.status is JobStatus.DONE
    assert [(error.job_id, error.dedupe_key) for error in told] == [(job.id, KEY)]
    assert await conn.fetchval("select count(*) from pqlite.jobs") == 1
    assert vars(pickle.loads(pickle.dumps(told[0]))) == vars(told[0])


async def test_on_a_session_the_follow_up_comes_after_the_completion_and_is_refused_before(
    run: Run, dsn: str, store: PgJobStore, conn: asyncpg.Connection
) -> None:
    engine = create_async_engine(sqlalchemy_url(dsn, "asyncpg"))
    sessions = async_sessionmaker(engine)

    async def poll(ctx: JobContext) -> None:
        async with sessions.begin() as session:
            with pytest.raises(HeldByThisJob):
                await store.enqueue("later", dedupe_key=KEY, conn=session)
            await ctx.complete(conn=session)
            await store.enqueue("later", dedupe_key=KEY, conn=session)

    async with run({"poll": poll}):
        job = await ended(store, await store.enqueue("poll", dedupe_key=KEY))
    await engine.dispose()

    assert job.status is JobStatus.DONE
    assert await conn.fetchval("select status from pqlite.jobs where job_type = 'later'") == "READY"


async def test_a_job_of_another_schema_with_the_same_id_and_key_is_not_taken_for_the_handlers_own(
    run: Run, dsn: str, store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await schema.migrate(conn, "elsewhere")
    found: list[int] = []

    async with PgJobStore(dsn=dsn, schema="elsewhere") as elsewhere:
        theirs = await elsewhere.enqueue("t", dedupe_key=KEY)

        async def poll(ctx: JobContext) -> None:
            found.append(await elsewhere.enqueue("t", dedupe_key=KEY))

        async with run({"poll": poll}):
            job = await ended(store, await store.enqueue("poll", dedupe_key=KEY))

    assert (job.status, found) == (JobStatus.DONE, [theirs])
    assert job.id == theirs


# A holder that is being cancelled


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_the_key_of_a_job_that_is_being_cancelled_is_an_error_and_free_once_that_has_ended(
    run: Run, store: PgJobStore, caplog: pytest.LogCaptureFixture, in_transaction: bool
) -> None:
    cleaning_up, may_end = asyncio.Event(), asyncio.Event()

    async def slow(ctx: JobContext) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cleaning_up.set()
            await may_end.wait()
            raise

    async with run({"slow": slow, "t": lambda ctx: "ran"}):
        dying = await store.enqueue("slow", dedupe_key=KEY)
        while (await store.get(dying)).status is not JobStatus.RUNNING:
            await asyncio.sleep(0.01)
        await store.cancel(dying)
        async with asyncio.timeout(20):
            await cleaning_up.wait()

        async with store.transaction() if in_transaction else nullcontext() as tx:
            with pytest.raises(HeldByCancelledJob, match=r"asked to cancel and still runs; nothing was") as held:
                await store.enqueue("t", dedupe_key=KEY, conn=tx)
        with caplog.at_level(logging.WARNING, "pqlite"):
            verdicts = await store.enqueue_many(
                [NewJob(job_type="t", dedupe_key=KEY), NewJob(job_type="t", dedupe_key="other")]
            )

        may_end.set()
        await store.wait_for(held.value.job_id, raise_on_failure=False, timeout=timedelta(seconds=20))
        again = await store.wait_for(await store.enqueue("t", dedupe_key=KEY), timeout=20)

    assert again.result == "ran"
    assert [tuple(verdict) for verdict in verdicts] == [(dying, False), (verdicts[1].id, True)]
    assert [verdict.cancelling for verdict in verdicts] == [True, False]
    assert "1 of 2 jobs were not enqueued: the active jobs with their dedupe keys were asked to cancel" in caplog.text
    assert vars(pickle.loads(pickle.dumps(held.value))) == vars(held.value)
