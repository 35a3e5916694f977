"""Whatever connection the caller has: its transaction decides about the job."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from pqlite import (
    ConfigurationError,
    JobCancelled,
    JobNotFound,
    JobStatus,
    LeaseLost,
    NewJob,
    NotInTransaction,
    PgJobStore,
)
from pqlite.store.connections import lent
from tests.store.conftest import Register
from tests.store.libraries import LIBRARIES, Library, Rollback, engine, of_a_session
from tests.store.workers import RegisteredWorker
from tests.support import sqlalchemy_url

pytestmark = pytest.mark.usefixtures("orders")


@pytest.fixture
async def orders(conn: asyncpg.Connection) -> None:
    await conn.execute("create table orders (note text primary key)")


@pytest.fixture(params=LIBRARIES.values(), ids=LIBRARIES.keys())
def library(request: pytest.FixtureRequest) -> Library:
    return request.param


async def counts(conn: asyncpg.Connection) -> tuple[int, int]:
    row = await conn.fetchrow("select (select count(*) from pqlite.jobs), (select count(*) from orders)")
    return row[0], row[1]


async def test_a_job_exists_when_the_callers_transaction_is_committed_and_not_before(
    store: PgJobStore, dsn: str, conn: asyncpg.Connection, library: Library
) -> None:
    async with library(dsn) as lender:
        await lender.write()
        job_id = await store.enqueue("t", {"n": [1, "%s", "ä"]}, conn=lender.conn, tags=("a", "b"), dedupe_key="k")
        assert await store.enqueue("t", conn=lender.conn, dedupe_key="k", strict=True) == job_id
        assert await counts(conn) == (0, 0)

    job = await store.get(job_id)
    assert (job.payload, job.tags, job.dedupe_key) == ({"n": [1, "%s", "ä"]}, ["a", "b"], "k")
    assert await counts(conn) == (1, 1)


async def test_a_job_enqueued_before_any_other_statement_is_rolled_back_with_the_callers_transaction(
    store: PgJobStore, dsn: str, conn: asyncpg.Connection, library: Library
) -> None:
    with pytest.raises(Rollback):
        async with library(dsn) as lender:
            await store.enqueue("t", conn=lender.conn)
            await store.enqueue_many([NewJob(job_type="t")] * 3, conn=lender.conn)
            await lender.write()
            raise Rollback

    assert await counts(conn) == (0, 0)


async def test_a_batch_is_in_the_callers_transaction_with_verdicts_in_its_order(
    store: PgJobStore, dsn: str, conn: asyncpg.Connection, library: Library
) -> None:
    earlier = await store.enqueue("t", dedupe_key="k1")
    jobs = [NewJob(job_type="t", payload={"n": n}, dedupe_key=None if n % 2 else f"k{n}") for n in range(6)]

    async with library(dsn) as lender:
        verdicts = await store.enqueue_many(
            [*jobs, NewJob(job_type="t", dedupe_key="k1")], conn=lender.conn, strict=True, progress=lambda *_: None
        )
        assert await counts(conn) == (1, 0)

    assert [verdict.inserted for verdict in verdicts] == [True] * 6 + [False]
    assert verdicts[6].id == earlier
    assert [(await store.get(v.id)).payload for v in verdicts[:6]] == [{"n": n} for n in range(6)]


async def test_a_cancellation_is_in_the_callers_transaction(store: PgJobStore, dsn: str, library: Library) -> None:
    job_id = await store.enqueue("t")

    with pytest.raises(Rollback):
        async with library(dsn) as lender:
            assert await store.cancel(job_id, conn=lender.conn) is JobStatus.CANCELLED
            with pytest.raises(JobNotFound):
                await store.cancel(job_id + 1, conn=lender.conn)
            raise Rollback
    assert (await store.get(job_id)).status is JobStatus.READY

    async with library(dsn) as lender:
        await store.cancel(job_id, conn=lender.conn, strict=True)
    assert (await store.get(job_id)).status is JobStatus.CANCELLED


async def test_a_job_is_done_with_the_callers_transaction_or_not_at_all(
    store: PgJobStore, dsn: str, conn: asyncpg.Connection, worker: RegisteredWorker, library: Library
) -> None:
    await store.enqueue("t")
    job = await worker.claim_one()

    with pytest.raises(Rollback):
        async with library(dsn) as lender:
            await lender.write()
            await store.complete_on(lender.conn, job)
            raise Rollback
    assert await counts(conn) == (1, 0)
    assert not await store.was_completed(job)

    async with library(dsn) as lender:
        await lender.write()
        await store.enqueue("followup", conn=lender.conn)
        await store.complete_on(lender.conn, job, result={"rows": 1})
        assert (await store.get(job.id)).status is JobStatus.RUNNING
    done = await store.get(job.id)
    assert (done.status, done.result) == (JobStatus.DONE, {"rows": 1})
    assert await store.was_completed(job)
    assert await counts(conn) == (2, 1)


async def test_a_claim_that_is_lost_or_cancelled_rolls_the_callers_transaction_back(
    store: PgJobStore, dsn: str, conn: asyncpg.Connection, worker: RegisteredWorker, library: Library
) -> None:
    await store.enqueue_many([NewJob(job_type="t")] * 2)
    lost, cancelled = await worker.claim()
    await conn.execute("update pqlite.jobs set claims = claims + 1 where id = $1", lost.id)
    await store.cancel(cancelled.id)

    for job, error in ((lost, LeaseLost), (cancelled, JobCancelled)):
        with pytest.raises(error):
            async with library(dsn) as lender:
                await lender.write()
                await store.complete_on(lender.conn, job)

    assert await counts(conn) == (2, 0)
    assert not await store.was_completed(lost)


async def test_a_savepoint_that_is_rolled_back_takes_its_job_along(
    store: PgJobStore, dsn: str, conn: asyncpg.Connection
) -> None:
    async with of_a_session(dsn, "asyncpg") as lender:
        kept = await store.enqueue("kept", conn=lender.conn)
        with pytest.raises(Rollback):
            async with lender.conn.begin_nested():
                await store.enqueue("dropped", conn=lender.conn)
                raise Rollback

    assert [row["id"] for row in await conn.fetch("select id from pqlite.jobs")] == [kept]


async def test_a_batch_that_fails_leaves_nothing_behind_even_if_the_transaction_is_committed(
    store: PgJobStore, dsn: str, conn: asyncpg.Connection, library: Library
) -> None:
    await conn.execute("alter table pqlite.jobs add constraint no_thirds check (payload->>'n' is distinct from '3')")
    jobs = [NewJob(job_type="t", payload={"n": n}, dedupe_key=str(n) if n else None) for n in range(4)]

    async with library(dsn) as lender:
        await lender.write()
        with pytest.raises(Exception, match="no_thirds"):
            await store.enqueue_many(jobs, conn=lender.conn)

    assert await counts(conn) == (0, 1)


async def test_a_failed_transaction_raises_the_librarys_own_error(
    store: PgJobStore, dsn: str, conn: asyncpg.Connection
) -> None:
    async with engine(dsn, "asyncpg") as made, AsyncSession(made) as session:
        with pytest.raises(DBAPIError):
            await session.execute(text("select from nowhere"))
        with pytest.raises(DBAPIError, match="current transaction is aborted"):
            await store.enqueue("t", conn=session)
        await session.rollback()
        await store.enqueue("t", conn=session)
        await session.commit()

    assert await counts(conn) == (1, 0)


@asynccontextmanager
async def asyncpg_alone(dsn: str) -> AsyncIterator[Any]:
    conn = await asyncpg.connect(dsn)
    try:
        yield conn
    finally:
        await conn.close()


@asynccontextmanager
async def session_in_autocommit(dsn: str, driver: str) -> AsyncIterator[Any]:
    async with engine(dsn, driver, isolation_level="AUTOCOMMIT") as made, AsyncSession(made) as session:
        yield session


@asynccontextmanager
async def psycopg_in_autocommit(dsn: str) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        yield conn


WITHOUT = {
    "asyncpg": asyncpg_alone,
    "AsyncSession asyncpg": lambda dsn: session_in_autocommit(dsn, "asyncpg"),
    "AsyncSession psycopg": lambda dsn: session_in_autocommit(dsn, "psycopg"),
    "psycopg": psycopg_in_autocommit,
}


@pytest.fixture(params=WITHOUT.values(), ids=WITHOUT.keys())
def without_transaction(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_an_enqueue_that_no_transaction_covers_is_said_in_a_log_line(
    store: PgJobStore, dsn: str, conn: asyncpg.Connection, without_transaction: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pqlite.store.connections")
    async with without_transaction(dsn) as lone:
        job_id = await store.enqueue("t", conn=lone)
        await store.enqueue_many([{"job_type": "t"}, {"job_type": "t", "dedupe_key": "k"}], conn=lone)
        assert await counts(conn) == (3, 0)
        await store.cancel(job_id, conn=lone)

    assert (await store.get(job_id)).status is JobStatus.CANCELLED
    assert [r.getMessage().partition(" on a connection")[0] for r in caplog.records] == [
        "A job was enqueued",
        "Jobs were enqueued",
        "A job was cancelled",
    ]


async def test_strict_refuses_what_no_transaction_covers_and_writes_nothing(
    dsn: str, conn: asyncpg.Connection, worker: RegisteredWorker, without_transaction: Any
) -> None:
    async with PgJobStore(dsn=dsn, strict=True) as store, without_transaction(dsn) as lone:
        claimed_id = await store.enqueue("t")
        job = await worker.claim_one()
        with pytest.raises(NotInTransaction, match=r"^Refused \(strict\): A job was enqueued on a connection"):
            await store.enqueue("t", conn=lone)
        with pytest.raises(NotInTransaction):
            await store.enqueue_many([{"job_type": "t"}], conn=lone)
        with pytest.raises(NotInTransaction):
            await store.cancel(claimed_id, conn=lone)
        with pytest.raises(NotInTransaction):
            await store.complete_on(lone, job)
        assert await counts(conn) == (1, 0)
        await store.enqueue("t", conn=lone, strict=False)

    assert await counts(conn) == (2, 0)


async def test_a_batch_on_a_connection_without_a_transaction_is_one_transaction_of_its_own(
    store: PgJobStore, dsn: str, conn: asyncpg.Connection, without_transaction: Any
) -> None:
    await conn.execute("alter table pqlite.jobs add constraint no_thirds check (payload->>'n' is distinct from '3')")
    jobs = [NewJob(job_type="t", payload={"n": n}, dedupe_key=str(n) if n else None) for n in range(4)]

    async with without_transaction(dsn) as lone:
        with pytest.raises(Exception, match="no_thirds"):
            await store.enqueue_many(jobs, conn=lone)
        await store.enqueue_many(jobs[:3], conn=lone)

    assert await counts(conn) == (3, 0)


async def test_a_text_begun_transaction_counts_as_one(store: PgJobStore, dsn: str, conn: asyncpg.Connection) -> None:
    async with asyncpg_alone(dsn) as own:
        await own.execute("begin")
        await store.enqueue("t", conn=own, strict=True)
        await own.execute("rollback")
    async with session_in_autocommit(dsn, "asyncpg") as session:
        await session.execute(text("begin"))
        await store.enqueue("t", conn=session, strict=True)
        await session.execute(text("rollback"))

    assert await counts(conn) == (0, 0)


async def test_codecs_of_the_callers_own_change_no_payload(
    store: PgJobStore, dsn: str, worker: RegisteredWorker
) -> None:
    async with asyncpg_alone(dsn) as own:
        for name in ("json", "jsonb"):
            await own.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        async with own.transaction():
            first = await store.enqueue("t", {"n": 1}, metadata={"m": 1}, conn=own)
            (second,) = await store.enqueue_many([{"job_type": "t", "payload": {"n": 2}}], conn=own)
    assert ((await store.get(first)).payload, (await store.get(first)).metadata) == ({"n": 1}, {"m": 1})
    assert (await store.get(second.id)).payload == {"n": 2}

    job = await worker.claim_one()
    async with asyncpg_alone(dsn) as own:
        await own.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        async with own.transaction():
            await store.complete_on(own, job, result={"r": 1})
    assert (await store.get(job.id)).result == {"r": 1}


async def test_a_key_that_an_open_transaction_holds_waits_as_the_callers_connection_says(
    store: PgJobStore, dsn: str, conn: asyncpg.Connection
) -> None:
    async with conn.transaction():
        await store.enqueue("t", dedupe_key="k", conn=conn)
        with pytest.raises(DBAPIError, match="lock timeout"):
            async with of_a_session(dsn, "psycopg") as lender:
                await lender.write("set local lock_timeout = '50ms'")
                await store.enqueue("t", dedupe_key="k", conn=lender.conn)


async def test_a_prepared_transaction_holds_its_job_until_it_is_committed(
    store: PgJobStore, dsn: str, conn: asyncpg.Connection, register: Register
) -> None:
    if await conn.fetchval("select current_setting('max_prepared_transactions') = '0'"):
        pytest.skip("the server's max_prepared_transactions is 0")
    await (await register()).engine.arm(timedelta(seconds=60))  # somebody sleeps, and wants a notification
    async with asyncpg_alone(dsn) as own:
        await own.execute("begin")
        await store.enqueue("t", conn=own)
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="NOTIFY"):
            await own.execute("prepare transaction 'refused'")
    async with await psycopg.AsyncConnection.connect(dsn) as own:
        await own.tpc_begin(own.xid(1, "pqlite", "test"))
        await own.execute("set local pqlite_settings.notify = off")
        await store.enqueue("t", conn=own, strict=True)
        await own.tpc_prepare()
        assert await counts(conn) == (0, 0)
        await own.tpc_commit()

    assert await counts(conn) == (1, 0)


async def test_what_is_no_connection_is_refused_in_a_sentence(store: PgJobStore, dsn: str) -> None:
    made = create_async_engine(sqlalchemy_url(dsn, "asyncpg"))
    sync = create_engine(sqlalchemy_url(dsn, "psycopg"))
    with Session(sync) as session, psycopg.connect(dsn) as plain:
        for conn in (made, sync, session, plain, dsn, object(), 7, [], asyncpg.connect):
            with pytest.raises(ConfigurationError, match=r"^conn must be an asyncpg connection, .*; not an? ") as error:
                await store.enqueue("t", conn=conn)
            synchronous = conn in (sync, session, plain)
            assert ("Synchronous code enqueues by SQL" in str(error.value)) is (synchronous or conn is made)
    sync.dispose()
    await made.dispose()


async def test_another_database_of_sqlalchemys_is_refused_by_name(store: PgJobStore) -> None:
    class Dialect:
        name, driver = "sqlite", "aiosqlite"

    class Connection(AsyncSession):
        async def connection(self, *args: Any, **options: Any) -> Any:
            return self

        dialect = Dialect()

    with pytest.raises(ConfigurationError, match="for sqlite\\+aiosqlite"):
        await lent(Connection())


async def test_none_of_these_libraries_is_imported() -> None:
    program = (
        "import sys, pqlite; "
        "print({'sqlalchemy', 'sqlmodel', 'psycopg', 'tortoise', 'piccolo', 'databases'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
