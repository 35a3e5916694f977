"""The handler's own writes and DONE: committed together, or neither."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from asyncpg.transaction import Transaction

from pqlite import JobCancelled, JobStatus, LeaseLost, PayloadError, PgJobStore
from pqlite.job import Job
from pqlite.outcome import Verb, Verdict
from pqlite.store import completion
from tests.store.conftest import Connect
from tests.store.workers import RegisteredWorker, TellingAsyncio, until_blocked


@pytest.fixture
async def job(store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker) -> Job:
    await conn.execute("create table ledger (line text unique deferrable initially deferred)")
    await store.enqueue("t")
    return await worker.claim_one()


async def lines(conn: asyncpg.Connection) -> list[str]:
    return [row[0] for row in await conn.fetch("select line from ledger order by 1")]


async def is_done(store: PgJobStore, job: Job) -> bool:
    return (await store.get(job.id)).status is JobStatus.DONE


INSERT = "insert into ledger values ('written')"


async def test_what_is_written_and_done_are_committed_together(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker, job: Job
) -> None:
    async with store.complete(job, result={"rows": 1}) as own:
        await own.execute(INSERT)
        assert await lines(conn) == []
        assert job.status is JobStatus.RUNNING

    done = await store.get(job.id)
    assert (done.status, done.result, done.locked_by, done.attempts) == (JobStatus.DONE, {"rows": 1}, None, 1)
    assert done.duration_ms is not None
    assert job.status is JobStatus.DONE
    assert await lines(conn) == ["written"]
    assert await worker.settle(job, Verb.DONE) is Verdict.ALREADY


async def run(store: PgJobStore, job: Job, inside: Callable[[Any], Awaitable[None]]) -> None:
    async with store.complete(job) as own:
        await own.execute(INSERT)
        await inside(own)


async def nothing(own: Any) -> None:
    pass


async def divide_by_zero(own: Any) -> None:
    raise ZeroDivisionError


async def test_what_is_written_is_rolled_back_when_the_block_raises_and_the_job_goes_on(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker, job: Job
) -> None:
    with pytest.raises(ZeroDivisionError):
        await run(store, job, divide_by_zero)

    assert await lines(conn) == []
    assert job.status is JobStatus.RUNNING
    assert await worker.settle(job, Verb.RETRY) is None


async def test_nothing_is_written_when_the_commit_itself_is_refused(
    store: PgJobStore, conn: asyncpg.Connection, job: Job
) -> None:
    await conn.execute(INSERT)

    with pytest.raises(asyncpg.UniqueViolationError):
        await run(store, job, nothing)  # the constraint is checked at the end

    assert not await is_done(store, job)
    assert job.status is JobStatus.RUNNING


async def test_a_block_that_swallows_an_error_of_the_database_is_not_committed(
    store: PgJobStore, conn: asyncpg.Connection, job: Job
) -> None:
    async def swallow(own: Any) -> None:
        with pytest.raises(asyncpg.UndefinedTableError):
            await own.execute("select from nowhere")

    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        await run(store, job, swallow)

    assert await lines(conn) == []
    assert not await is_done(store, job)


async def test_a_job_asked_to_cancel_cannot_complete(store: PgJobStore, conn: asyncpg.Connection, job: Job) -> None:
    async def cancel(own: Any) -> None:
        await store.cancel(job.id)

    with pytest.raises(JobCancelled, match=f"Job {job.id} was asked to cancel; nothing was written"):
        await run(store, job, cancel)

    assert await lines(conn) == []
    assert job.status is JobStatus.RUNNING


async def test_a_job_without_a_claim_cannot_complete(store: PgJobStore) -> None:
    job = await store.get(await store.enqueue("t"))

    with pytest.raises(LeaseLost, match=f"Job {job.id} is not claimed"):
        async with store.complete(job):
            pass


async def test_a_result_that_cannot_be_stored_is_refused_before_anything_is_begun(store: PgJobStore, job: Job) -> None:
    with pytest.raises(PayloadError, match="result"):
        store.complete(job, result=object())


async def test_the_row_is_free_while_the_block_runs(store: PgJobStore, conn: asyncpg.Connection, job: Job) -> None:
    async with store.complete(job) as own:
        await own.execute(INSERT)
        await conn.execute("select from pqlite.jobs for update nowait")


# The answer to COMMIT is lost

Lose = Callable[[Transaction, Callable[[], Awaitable[None]]], Awaitable[None]]


def lose_the_answer(monkeypatch: pytest.MonkeyPatch, lose: Lose) -> None:
    """Let `lose` happen instead of the next commit; it is given the transaction and its real commit."""
    commit = Transaction.commit

    async def lost(self: Transaction) -> None:
        monkeypatch.setattr(Transaction, "commit", commit)
        await lose(self, lambda: commit(self))

    monkeypatch.setattr(Transaction, "commit", lost)


async def after_the_commit(transaction: Transaction, commit: Callable[[], Awaitable[None]]) -> None:
    await commit()
    raise ConnectionResetError


async def before_the_commit(transaction: Transaction, commit: Callable[[], Awaitable[None]]) -> None:
    raise ConnectionResetError


@pytest.mark.parametrize("pool_size", [1, 10])
async def test_a_commit_whose_answer_was_lost_is_looked_up_and_found(
    dsn: str, conn: asyncpg.Connection, job: Job, monkeypatch: pytest.MonkeyPatch, pool_size: int
) -> None:
    lose_the_answer(monkeypatch, after_the_commit)

    async with PgJobStore(dsn=dsn, pool_size=pool_size) as store:
        async with store.complete(job) as own:
            await own.execute(INSERT)

        assert job.status is JobStatus.DONE
        assert await is_done(store, job)
    assert await lines(conn) == ["written"]


async def test_a_job_that_was_pruned_before_it_could_be_looked_up_counts_as_done(
    dsn: str, conn: asyncpg.Connection, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pruned_after_the_commit(transaction: Transaction, commit: Callable[[], Awaitable[None]]) -> None:
        await commit()
        await conn.execute("delete from pqlite.jobs")
        raise ConnectionResetError

    lose_the_answer(monkeypatch, pruned_after_the_commit)

    async with PgJobStore(dsn=dsn) as store, store.complete(job) as own:
        await own.execute(INSERT)

    assert job.status is JobStatus.DONE
    assert await lines(conn) == ["written"]


@pytest.mark.parametrize("pool_size", [1, 10])
async def test_a_commit_that_never_arrived_is_looked_up_and_its_error_raised(
    dsn: str, conn: asyncpg.Connection, job: Job, monkeypatch: pytest.MonkeyPatch, pool_size: int
) -> None:
    lose_the_answer(monkeypatch, before_the_commit)

    async with PgJobStore(dsn=dsn, pool_size=pool_size) as store:
        with pytest.raises(ConnectionResetError):
            async with store.complete(job) as own:
                await own.execute(INSERT)

        assert job.status is JobStatus.RUNNING
        assert not await is_done(store, job)
    assert await lines(conn) == []


async def test_the_lookup_waits_for_the_end_of_the_lost_transaction(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may not have noticed yet that its client is gone: until then nobody can know."""
    server_side = await connect()
    transaction = server_side.transaction()
    telling = TellingAsyncio()

    async def lose(lost: Transaction, commit: Callable[[], Awaitable[None]]) -> None:
        # what the server still does of a transaction whose client is gone
        await lost.rollback()
        await transaction.start()
        await server_side.execute("select pqlite.complete($1, $2, $3, null)", job.locked_by, job.id, job.claims)
        raise ConnectionResetError

    lose_the_answer(monkeypatch, lose)
    monkeypatch.setattr(completion, "asyncio", telling)

    async def complete() -> None:
        async with store.complete(job):
            pass

    async with asyncio.TaskGroup() as tasks:
        completing = tasks.create_task(complete())
        await telling.slept.wait()
        assert not completing.done()
        await transaction.commit()

    assert job.status is JobStatus.DONE


async def test_a_commit_that_gets_no_answer_in_time_is_looked_up(
    store: PgJobStore, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(transaction: Transaction, commit: Callable[[], Awaitable[None]]) -> None:
        await commit()
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(completion, "COMMIT_SECONDS", 0.01)
    lose_the_answer(monkeypatch, hang)

    async with store.complete(job):
        pass

    assert await is_done(store, job)


LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


@pytest.mark.parametrize("notices", [True, False])
async def test_the_error_of_the_block_is_told_even_if_the_connection_is_gone(
    store: PgJobStore, conn: asyncpg.Connection, job: Job, notices: bool
) -> None:
    async def fail(own: Any) -> None:
        await terminate(conn, own)
        if notices:
            with pytest.raises(LOST):
                await own.execute("select 1")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run(store, job, fail)

    assert not await is_done(store, job)


async def test_a_connection_lost_in_the_block_completes_nothing(
    store: PgJobStore, conn: asyncpg.Connection, job: Job
) -> None:
    with pytest.raises(LOST):
        await run(store, job, lambda own: terminate(conn, own))

    assert await lines(conn) == []
    assert not await is_done(store, job)


async def terminate(conn: asyncpg.Connection, other: asyncpg.Connection) -> None:
    await conn.execute("select pg_terminate_backend($1)", await other.fetchval("select pg_backend_pid()"))


# Cancellation


async def test_a_cancellation_in_the_block_rolls_back(store: PgJobStore, conn: asyncpg.Connection, job: Job) -> None:
    entered = asyncio.Event()

    async def inside(own: Any) -> None:
        entered.set()
        await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(run(store, job, inside))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await lines(conn) == []
    assert not await is_done(store, job)
    assert await conn.fetchval("select count(*) from pg_locks where mode = 'RowExclusiveLock'") == 0


async def test_a_cancellation_while_the_fence_waits_for_the_row_rolls_back(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect, job: Job
) -> None:
    async with conn.transaction():
        await conn.execute("select from pqlite.jobs for update")
        task = asyncio.create_task(run(store, job, nothing))
        await until_blocked(await connect())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert await lines(conn) == []
    assert not await is_done(store, job)
    assert job.status is JobStatus.RUNNING


async def test_a_cancellation_during_the_commit_is_delivered_after_it(
    store: PgJobStore, conn: asyncpg.Connection, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    committing, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(transaction: Transaction, commit: Callable[[], Awaitable[None]]) -> None:
        committing.set()
        await go_on.wait()
        await commit()

    lose_the_answer(monkeypatch, slowly)
    task = asyncio.create_task(run(store, job, nothing))
    await committing.wait()
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert job.status is JobStatus.DONE
    assert await is_done(store, job)
    assert await lines(conn) == ["written"]


async def test_the_connection_goes_back_to_the_pool_in_order(dsn: str, job: Job) -> None:
    async with PgJobStore(dsn=dsn, pool_size=1) as store:
        with pytest.raises(ZeroDivisionError):
            async with store.complete(job):
                raise ZeroDivisionError
        async with store.complete(job):
            pass
        assert await is_done(store, job)
