"""Handlers that complete their job in a transaction of their own, on whatever connection they have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import anyio.from_thread
import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from pqlite import BackoffPolicy, JobContext, JobStatus, NotInTransaction, NotStarted, PgJobStore
from pqlite.events import JobStarted
from tests.support import EventLog, ended, sqlalchemy_url, until
from tests.worker.conftest import Run

Sessions = async_sessionmaker[AsyncSession]


@pytest.fixture
async def sessions(dsn: str, conn: asyncpg.Connection) -> AsyncIterator[Sessions]:
    await conn.execute("create table ledger (job_id bigint)")
    engine = create_async_engine(sqlalchemy_url(dsn, "asyncpg"))
    yield async_sessionmaker(engine)
    await engine.dispose()


class AtOnce(BackoffPolicy):
    def retry_delay(self, attempts: int) -> timedelta:
        return timedelta(0)


async def write(session: AsyncSession, ctx: JobContext) -> None:
    await session.execute(text("insert into ledger values (:id)"), {"id": ctx.job.id})


async def ledger(conn: asyncpg.Connection) -> list[int]:
    return [row[0] for row in await conn.fetch("select job_id from ledger")]


async def test_a_sessions_writes_its_follow_up_and_done_are_committed_together(
    run: Run, store: PgJobStore, conn: asyncpg.Connection, sessions: Sessions
) -> None:
    follow_ups: list[int] = []

    async def handler(ctx: JobContext) -> dict[str, str]:
        async with sessions.begin() as session:
            await write(session, ctx)
            follow_ups.append(await store.enqueue("later", run_after=timedelta(hours=1), conn=session, strict=True))
            await ctx.complete(conn=session, result={"rows": 1})
        return {"ignored": "yes"}

    async with run({"t": handler}):
        job = await ended(store, await store.enqueue("t"))

    assert (job.status, job.result, job.attempts) == (JobStatus.DONE, {"rows": 1}, 1)
    assert await ledger(conn) == [job.id]
    assert (await store.get(follow_ups[0])).status is JobStatus.READY


async def test_an_asyncpg_connection_of_the_handlers_own_will_do_as_well(
    run: Run, store: PgJobStore, dsn: str, conn: asyncpg.Connection, sessions: Sessions
) -> None:
    async def handler(ctx: JobContext) -> None:
        own = await asyncpg.connect(dsn)
        async with own.transaction():
            await own.execute("insert into ledger values ($1)", ctx.job.id)
            await ctx.complete(conn=own)
        await own.close()

    async with run({"t": handler}):
        job = await ended(store, await store.enqueue("t"))

    assert job.status is JobStatus.DONE
    assert await ledger(conn) == [job.id]


async def test_a_handler_that_never_commits_has_failed(
    run: Run, store: PgJobStore, conn: asyncpg.Connection, sessions: Sessions
) -> None:
    async def handler(ctx: JobContext) -> None:
        async with sessions() as session:
            await write(session, ctx)
            await ctx.complete(conn=session)

    async with run({"t": handler}):
        job = await ended(store, await store.enqueue("t", max_attempts=1))

    assert job.status is JobStatus.FAILED
    assert "that transaction was not committed" in (job.last_error or "")
    assert await ledger(conn) == []


async def test_a_job_whose_transaction_is_rolled_back_is_tried_again(
    run: Run, store: PgJobStore, conn: asyncpg.Connection, sessions: Sessions
) -> None:
    async def handler(ctx: JobContext) -> None:
        async with sessions.begin() as session:
            await write(session, ctx)
            await ctx.complete(conn=session)
            if ctx.attempt == 1:
                raise ZeroDivisionError

    async with run({"t": handler}, backoff=AtOnce()):
        job = await ended(store, await store.enqueue("t"))

    assert (job.status, job.attempts) == (JobStatus.DONE, 2)
    assert "ZeroDivisionError" in job.errors[0]["error"]
    assert await ledger(conn) == [job.id]


async def test_a_job_that_was_committed_stays_done_whatever_its_handler_does_next(
    run: Run, store: PgJobStore, conn: asyncpg.Connection, sessions: Sessions
) -> None:
    async def handler(ctx: JobContext) -> None:
        async with sessions.begin() as session:
            await write(session, ctx)
            await ctx.complete(conn=session)
        raise ZeroDivisionError

    async with run({"t": handler}):
        job = await ended(store, await store.enqueue("t"))

    assert (job.status, job.attempts, job.last_error) == (JobStatus.DONE, 1, None)
    assert await ledger(conn) == [job.id]


async def test_a_transaction_committed_after_the_handler_has_returned_counts(
    run: Run, store: PgJobStore, conn: asyncpg.Connection, sessions: Sessions
) -> None:
    lent: asyncio.Future[AsyncSession] = asyncio.get_running_loop().create_future()

    async def handler(ctx: JobContext) -> None:
        session = sessions()
        await write(session, ctx)
        await ctx.complete(conn=session)
        lent.set_result(session)

    async with run({"t": handler}):
        job_id = await store.enqueue("t")
        session = await lent
        # The worker looks, and has to wait for the lock.
        assert (await store.get(job_id)).status is JobStatus.RUNNING
        await session.commit()
        await session.close()
        job = await ended(store, job_id)

    assert (job.status, job.attempts) == (JobStatus.DONE, 1)
    assert await ledger(conn) == [job.id]


async def test_a_job_asked_to_cancel_takes_the_sessions_writes_back(
    run: Run, store: PgJobStore, conn: asyncpg.Connection, sessions: Sessions
) -> None:
    async def handler(ctx: JobContext) -> None:
        async with sessions.begin() as session:
            await write(session, ctx)
            await conn.execute("update pqlite.jobs set cancel_requested_at = now() where id = $1", ctx.job.id)
            await ctx.complete(conn=session)

    async with run({"t": handler}, backoff=AtOnce()):
        job = await ended(store, await store.enqueue("t"))

    assert job.status is JobStatus.CANCELLED
    assert await ledger(conn) == []


async def test_a_connection_without_a_transaction_cannot_complete(
    run: Run, store: PgJobStore, dsn: str, conn: asyncpg.Connection, sessions: Sessions
) -> None:
    refused: list[Exception] = []

    async def handler(ctx: JobContext) -> int:
        own = await asyncpg.connect(dsn)
        with pytest.raises(NotInTransaction) as error:
            await ctx.complete(conn=own)
        refused.append(error.value)
        await own.close()
        raise error.value

    async with run({"t": handler}):
        job = await ended(store, await store.enqueue("t", max_attempts=1))

    assert job.status is JobStatus.FAILED
    assert "NotInTransaction" in (job.last_error or "")
    assert len(refused) == 1


async def test_a_job_completed_on_a_session_and_retried_by_hand_runs_again(
    run: Run, store: PgJobStore, log: EventLog, conn: asyncpg.Connection, sessions: Sessions
) -> None:
    committed, go_on = asyncio.Event(), asyncio.Event()

    async def handler(ctx: JobContext) -> None:
        async with sessions.begin() as session:
            await write(session, ctx)
            await ctx.complete(conn=session)
        committed.set()
        await go_on.wait()

    async with run({"t": handler}):
        job_id = await store.enqueue("t")
        await committed.wait()
        await store.retry(job_id)
        await until(lambda: conn.fetchval("select claims = 2 from pqlite.jobs where id = $1", job_id), "the claim")
        go_on.set()
        await log.wait_for(JobStarted, count=2)
        job = await ended(store, job_id)

    assert (job.status, job.last_error) == (JobStatus.DONE, None)
    assert await ledger(conn) == [job_id] * 2


async def test_a_completion_that_is_not_entered_says_that_it_did_nothing(run: Run, store: PgJobStore) -> None:
    async def forgets(ctx: JobContext) -> str:
        with pytest.warns(RuntimeWarning, match=r"ctx.complete\(\) did nothing; .* 'async with"):
            ctx.complete(result="lost")
        return "returned"

    async def awaits(ctx: JobContext) -> None:
        await ctx.complete()  # type: ignore[misc]

    async def enters_it_like_a_file(ctx: JobContext) -> None:
        with ctx.complete():  # type: ignore[attr-defined]
            pass

    async with run({"forgets": forgets, "awaits": awaits, "with": enters_it_like_a_file}):
        forgot = await ended(store, await store.enqueue("forgets"))
        awaited = await ended(store, await store.enqueue("awaits", max_attempts=1))
        entered = await ended(store, await store.enqueue("with", max_attempts=1))

    assert (forgot.status, forgot.result) == (JobStatus.DONE, "returned")
    assert "ctx.complete() is awaited with conn= only" in (awaited.last_error or "")
    assert "ctx.complete() is not for 'with' alone" in (entered.last_error or "")


async def test_a_handler_in_a_thread_enqueues_through_the_event_loop_and_not_beside_it(
    run: Run, store: PgJobStore
) -> None:
    def handler(ctx: JobContext) -> int:
        for options in ({}, {"dedupe_key": "k"}):
            with pytest.raises(NotStarted, match="in another event loop"):
                asyncio.run(ctx.store.enqueue("never", **options))  # type: ignore[arg-type]
        return anyio.from_thread.run(ctx.store.enqueue, "next", {"id": 7})

    async with run({"t": handler}):
        job = await ended(store, await store.enqueue("t"))

    assert (await store.get(job.result)).payload == {"id": 7}
