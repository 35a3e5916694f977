"""A whole test inside its own transaction, which is rolled back: nothing of it has ever been."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from pqlite import (
    ConfigurationError,
    InvalidJob,
    JobContext,
    JobStatus,
    LeaseLost,
    NewJob,
    NotInTransaction,
    PgJobStore,
    Worker,
)
from pqlite.testing import AttemptFailed, assert_enqueued, binding, bound, drain, inline, jobs_of
from tests.store.conftest import connect as connect
from tests.support import sqlalchemy_url

Connect = Callable[[], Awaitable[asyncpg.Connection]]


@pytest.fixture
async def mine(conn: asyncpg.Connection) -> AsyncIterator[PgJobStore]:
    """A store on a connection whose transaction is rolled back; afterwards nothing is left."""
    await conn.execute("create table orders (id int primary key)")
    transaction = conn.transaction()
    await transaction.start()
    yield bound(conn)
    await transaction.rollback()
    for table in ("pqlite.jobs", "pqlite.workers", "orders"):
        assert await conn.fetchval(f"select count(*) from {table}") == 0


async def echo(ctx: JobContext) -> Any:
    return ctx.job.payload


async def test_jobs_are_enqueued_run_and_seen_in_the_transaction_and_by_nobody_else(
    mine: PgJobStore, connect: Connect
) -> None:
    outsider = await connect()
    first = await mine.enqueue("t", 1)
    assert await mine.enqueue("t", 2, dedupe_key="k") == await mine.enqueue("t", 3, dedupe_key="k")
    await mine.enqueue_many([NewJob(job_type="t", payload=n) for n in (4, 5)])
    await assert_enqueued(mine, "t", count=4)

    jobs = await drain(mine, {"t": echo})

    assert [(job.status, job.result) for job in jobs] == [(JobStatus.DONE, n) for n in (1, 2, 4, 5)]
    assert (await mine.get(first)).status is JobStatus.DONE
    assert await outsider.fetchval("select count(*) from pqlite.jobs") == 0
    assert await outsider.fetchval("select count(*) from pqlite.workers") == 0


async def test_a_handler_completes_with_its_writes_in_the_same_transaction(
    mine: PgJobStore, conn: asyncpg.Connection
) -> None:
    async def handler(ctx: JobContext) -> None:
        async with ctx.complete(result="kept") as own:
            await own.execute("insert into orders values ($1)", ctx.job.id)
            await ctx.store.enqueue("later", run_after=timedelta(hours=1), conn=own)
            await ctx.store.get(ctx.job.id)
            if ctx.attempt == 1:
                raise ValueError("undo this")

    job_id = await mine.enqueue("t")

    [job] = await drain(mine, {"t": handler}, raises=False)
    assert (job.status, await conn.fetchval("select count(*) from orders")) == (JobStatus.READY, 0)
    await mine.retry(job_id)
    [job] = await drain(mine, {"t": handler})

    assert (job.status, job.result) == (JobStatus.DONE, "kept")
    assert await conn.fetchval("select id from orders") == job_id
    assert [each.job_type for each in await jobs_of(mine)] == ["t", "later"]


async def test_an_app_that_enqueues_in_savepoints_of_the_connection_is_tested_inline(
    mine: PgJobStore, conn: asyncpg.Connection
) -> None:
    ran: list[Any] = []

    async def handler(ctx: JobContext) -> None:
        ran.append(ctx.job.payload)

    async with inline(mine, {"t": handler}):
        async with conn.transaction():
            await mine.enqueue("t", 1, conn=conn, strict=True)
        with suppress(ZeroDivisionError):
            async with conn.transaction():
                await mine.enqueue("t", 2, conn=conn)
                raise ZeroDivisionError
        await mine.enqueue("t", 3)

    assert ran == [1, 3]


async def test_a_verb_that_fails_leaves_the_transaction_usable(mine: PgJobStore, conn: asyncpg.Connection) -> None:
    await conn.execute("insert into orders values (1)")
    await mine.enqueue("t")
    job = await mine.pickup("me")
    assert job is not None
    await mine.mark_done(job)

    with pytest.raises(InvalidJob):
        await mine.enqueue("")
    with pytest.raises(LeaseLost):
        async with mine.complete(job):
            pass
    with pytest.raises(asyncpg.PostgresError):
        async with mine.connection() as own:
            await own.execute("nonsense")

    assert await conn.fetchval("select count(*) from orders") == 1
    assert (await mine.get(job.id)).status is JobStatus.DONE


async def test_tasks_of_the_test_use_the_connection_one_after_the_other(mine: PgJobStore) -> None:
    async with asyncio.TaskGroup() as tasks:
        ids = [tasks.create_task(mine.enqueue("t", n)) for n in range(30)]

    assert len({task.result() for task in ids}) == 30
    assert len(await drain(mine, {"t": echo})) == 30


async def test_who_stops_waiting_for_a_job_leaves_the_connection_free(
    mine: PgJobStore, conn: asyncpg.Connection
) -> None:
    job_id = await mine.enqueue("t")
    for turns in range(20):
        waiting = asyncio.create_task(mine.wait_for(job_id))
        for _ in range(turns):
            await asyncio.sleep(0.0002)  # on, into its savepoint or its look

        waiting.cancel()
        await asyncio.wait([waiting])

        assert await conn.fetchval("select 1") == 1


async def test_who_waits_for_a_job_in_a_block_of_its_own_has_the_connection(mine: PgJobStore) -> None:
    async with mine.transaction() as conn:
        job_id = await mine.enqueue("t", conn=conn)
        await mine.cancel(job_id, conn=conn)
        assert (await mine.wait_for(job_id, raise_on_failure=False)).status is JobStatus.CANCELLED


async def test_the_other_verbs_run_in_the_transaction_as_well(mine: PgJobStore) -> None:
    job_id = await mine.enqueue("t")
    assert await mine.cancel(job_id) is JobStatus.CANCELLED
    assert await mine.retry(job_id) is JobStatus.READY
    job = await mine.pickup("me")
    assert job is not None
    await mine.mark_error(job, "boom", terminal=True)
    assert await mine.reap_stale() == 0
    assert await mine.prune(timedelta(0), timedelta(0)) == (None, 1)
    await mine.check_schema()
    async with mine.transaction() as tx:
        await mine.enqueue("t", conn=tx)
        assert len(await jobs_of(mine)) == 1


async def test_a_connection_without_a_transaction_cannot_be_bound(conn: asyncpg.Connection) -> None:
    with pytest.raises(NotInTransaction, match="in a transaction, or its jobs would stay"):
        bound(conn)


async def test_what_is_no_connection_of_asyncpgs_cannot_be_bound(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as theirs, AsyncSession() as session:
        for conn in (theirs, session, None):
            with pytest.raises(ConfigurationError, match="needs an asyncpg connection, not a"):
                bound(conn)


async def test_after_the_end_of_its_transaction_a_bound_store_adds_nothing_that_would_stay(
    conn: asyncpg.Connection,
) -> None:
    transaction = conn.transaction()
    await transaction.start()
    store = bound(conn)
    job_id = await store.enqueue("t")
    await transaction.rollback()

    for verb in (lambda: store.enqueue("t"), lambda: store.get(job_id), lambda: drain(store, {"t": echo})):
        with pytest.raises(NotInTransaction, match="has ended"):
            await verb()

    assert await conn.fetchval("select count(*) from pqlite.jobs") == 0


async def test_a_task_that_waits_in_vain_for_the_connection_is_told_who_has_it(
    mine: PgJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binding, "PATIENCE", 0.05)

    async def handler(ctx: JobContext) -> None:
        async with ctx.complete():
            await asyncio.gather(ctx.store.enqueue("u"), ctx.store.enqueue("u"))

    await mine.enqueue("t")
    with pytest.raises(AttemptFailed, match=r"Another task has had the connection .* ctx\.complete\(\)"):
        await drain(mine, {"t": handler})


async def test_a_worker_on_a_bound_store_is_refused_in_a_sentence(mine: PgJobStore) -> None:
    with pytest.raises(ConfigurationError, match=r"run its jobs with drain\(\)"):
        async with Worker(store=mine, handlers={"t": echo}):
            pytest.fail("it started")


async def test_an_app_that_writes_and_enqueues_in_sqlalchemy_sessions_is_rolled_back_whole(
    dsn: str, connect: Connect
) -> None:
    engine = create_async_engine(sqlalchemy_url(dsn, "asyncpg"))
    seen: list[int] = []

    async def handler(ctx: JobContext) -> None:
        async with ctx.complete() as own:
            seen.append(await own.fetchval("select count(*) from orders"))

    async with engine.connect() as connection, AsyncSession(connection) as session:
        await session.execute(text("create table orders (id int)"))
        raw = await (await session.connection()).get_raw_connection()
        store = bound(raw.driver_connection)
        async with inline(store, {"t": handler}) as run:
            async with session.begin_nested():
                await session.execute(text("insert into orders values (1)"))
                await store.enqueue("t", conn=session, strict=True)
            await run()
            await assert_enqueued(store, "t", status=JobStatus.DONE, count=1)
            await session.execute(text("insert into orders values (2)"))
            await store.enqueue("t")
        await session.rollback()
    await engine.dispose()

    assert seen == [1, 2]
    outsider = await connect()
    assert await outsider.fetchval("select count(*) from pqlite.jobs") == 0
    assert await outsider.fetchval("select to_regclass('orders')") is None
