"""Single enqueues that come together share a statement, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from pqlite import DedupeKeyBusy, NotStarted, PgJobStore, StoreTimeout
from pqlite.store import postgres
from tests.store.conftest import Connect
from tests.store.workers import until_blocked
from tests.support import until


@asynccontextmanager
async def writes_held_up(conn: asyncpg.Connection) -> AsyncIterator[None]:
    """Let nobody write jobs for as long as the block lasts."""
    transaction = conn.transaction()
    await transaction.start()
    await conn.execute("lock table pqlite.jobs in exclusive mode")
    try:
        yield
    finally:
        await transaction.rollback()


def writers() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "pqlite enqueue"]


async def outcomes(work: list[asyncio.Task[int]]) -> list[int | BaseException]:
    async with asyncio.timeout(30):
        return await asyncio.gather(*work, return_exceptions=True)


def start(*work: Coroutine[Any, Any, int]) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(one) for one in work]


async def stored(conn: asyncpg.Connection) -> dict[int, int]:
    """Return the payload of every job by its id."""
    return dict(await conn.fetch("select id, payload::text::int from pqlite.jobs"))


async def test_a_thousand_concurrent_enqueues_take_few_transactions_and_each_gets_the_id_of_its_own_job(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    ids = await outcomes(start(*(store.enqueue(f"t{n}", n) for n in range(1000))))

    rows = await conn.fetch("select id, job_type, payload::text::int as n from pqlite.jobs")
    assert {(row["id"], row["job_type"], row["n"]) for row in rows} == {(ids[n], f"t{n}", n) for n in range(1000)}
    assert await conn.fetchval("select count(distinct xmin::text) from pqlite.jobs") <= 3


async def test_jobs_of_every_kind_can_share_a_statement(store: PgJobStore) -> None:
    fields = {
        **{"payload": ["line\nfeed"], "priority": 3, "max_attempts": 1, "timeout_seconds": 1.5, "queue": "q\x1f"},
        **{"tags": ["a\nb"], "metadata": {"m": "\n"}, "concurrency_key": "c\n"},
    }
    plain, rich = await outcomes(start(store.enqueue("plain"), store.enqueue("rich\n1", **fields)))

    job = await store.get(int(rich))  # type: ignore[arg-type]
    assert (job.job_type, job.payload, job.priority, job.max_attempts) == ("rich\n1", ["line\nfeed"], 3, 1)
    assert (job.timeout_seconds, job.queue, job.tags) == (1.5, "q\x1f", ["a\nb"])
    assert (job.metadata, job.concurrency_key) == ({"m": "\n"}, "c\n")
    other = await store.get(int(plain))  # type: ignore[arg-type]
    assert (other.job_type, other.payload, other.priority, other.max_attempts) == ("plain", {}, 0, 5)
    assert (other.timeout_seconds, other.queue, other.tags, other.metadata) == (None, "default", [], {})


async def test_an_enqueue_returns_after_its_own_commit(store: PgJobStore, conn: asyncpg.Connection) -> None:
    async def enqueue_and_look(n: int) -> None:
        for _ in range(20):
            job_id = await store.enqueue("t", n)
            assert (await store.get(job_id)).payload == n

    async with asyncio.TaskGroup() as tasks:
        for n in range(10):
            tasks.create_task(enqueue_and_look(n))

    assert await conn.fetchval("select count(*) from pqlite.jobs") == 200


# Refusals


REFUSING_TRIGGER = """
    create function refuse() returns trigger language plpgsql as $$ begin {} end $$;
    create trigger refuse before insert on pqlite.jobs for each row when (new.priority = 7) execute function refuse();
"""


@pytest.mark.parametrize(
    ("obstacle", "error"),
    [
        ("alter table pqlite.jobs add check (priority <> 7)", asyncpg.CheckViolationError),
        (REFUSING_TRIGGER.format("raise 'not today';"), asyncpg.RaiseError),
        (REFUSING_TRIGGER.format("raise 'ours' using errcode = 'OURS1';"), asyncpg.PostgresError),
        (REFUSING_TRIGGER.format("perform 1 / 0;"), asyncpg.DivisionByZeroError),
        (REFUSING_TRIGGER.format("return null;"), asyncpg.RaiseError),
    ],
    ids=["check", "trigger", "own code", "data", "suppressed"],
)
async def test_one_bad_row_among_twenty_fails_its_own_caller_only(
    store: PgJobStore, conn: asyncpg.Connection, obstacle: str, error: type[Exception]
) -> None:
    await conn.execute(obstacle)

    ids = await outcomes(start(*(store.enqueue("t", n, priority=7 * (n == 11)) for n in range(20))))

    assert isinstance(ids[11], error)
    assert await stored(conn) == {ids[n]: n for n in range(20) if n != 11}


# The end of a connection


async def test_a_connection_that_is_killed_fails_every_caller_of_its_flush_and_nothing_is_written_twice(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect
) -> None:
    observer = await connect()
    async with writes_held_up(conn):
        callers = start(*(store.enqueue("t", n) for n in range(20)))
        await until_blocked(observer)
        killed = await observer.fetchval(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity "
            "where datname = current_database() and wait_event_type = 'Lock'"
        )
        ids = await outcomes(callers)

    assert killed == 1
    assert all(isinstance(error, (asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)) for error in ids)
    assert await stored(conn) == {}
    job_id = await store.enqueue("t", 21)
    assert await stored(conn) == {job_id: 21}


async def test_a_flush_that_times_out_fails_every_caller_and_is_not_repeated(
    dsn: str, conn: asyncpg.Connection
) -> None:
    async with asyncpg.create_pool(dsn, command_timeout=0.05) as pool, PgJobStore(pool=pool) as store:
        await store.enqueue("t", 0)
        async with writes_held_up(conn):
            ids = await outcomes(start(*(store.enqueue("t", n) for n in range(1, 6))))

        assert [type(job_id) for job_id in ids] == [StoreTimeout] * 5
        # all of them or none: the request to cancel the statement races with its end
        await until(lambda: writers() == [], "the writer to end")
        assert sorted((await stored(conn)).values()) in ([0], [0, 1, 2, 3, 4, 5])


async def test_enqueues_without_a_server_all_fail(dsn: str) -> None:
    # nothing listens there
    async with PgJobStore(dsn="postgresql://127.0.0.1:1/nowhere") as store:
        errors = await outcomes(start(*(store.enqueue("t", n) for n in range(5))))

    assert all(isinstance(error, OSError) for error in errors)


# The pool


async def test_a_pool_of_one_that_the_caller_holds_times_out(dsn: str) -> None:
    async with PgJobStore(dsn=dsn, pool_size=1, timeout=0.05) as store:
        async with store.connection():
            with pytest.raises(TimeoutError):
                await store.enqueue("t")


async def test_others_get_the_one_connection_of_a_pool_while_many_enqueue_without_end(
    dsn: str, conn: asyncpg.Connection
) -> None:
    async with PgJobStore(dsn=dsn, pool_size=1) as store:
        got_it = asyncio.Event()

        async def enqueue_without_end() -> None:
            while not got_it.is_set():
                await store.enqueue("t")

        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            for _ in range(5):
                tasks.create_task(enqueue_without_end())
            await until(lambda: stored_any(conn))
            async with store.connection():
                got_it.set()


async def stored_any(conn: asyncpg.Connection) -> bool:
    return bool(await conn.fetchval("select exists (select from pqlite.jobs)"))


async def test_nothing_is_left_behind_when_nothing_is_pending(dsn: str) -> None:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=3) as pool, PgJobStore(pool=pool) as store:
        await outcomes(start(*(store.enqueue("t") for _ in range(50))))

        await until(lambda: writers() == [], "the writer to end")
        assert pool.get_idle_size() == pool.get_size()


# Cancellation


async def test_a_caller_who_is_cancelled_during_the_flush_leaves_the_others_alone(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect
) -> None:
    async with writes_held_up(conn):
        callers = start(*(store.enqueue("t", n) for n in range(5)))
        await until_blocked(await connect())
        callers[0].cancel()
        await asyncio.wait(callers[:1])
    ids = await outcomes(callers)

    jobs = await stored(conn)
    assert isinstance(ids[0], asyncio.CancelledError)
    assert {job_id: n for job_id, n in jobs.items() if n != 0} == {ids[n]: n for n in range(1, 5)}


async def test_a_caller_who_is_cancelled_before_its_row_is_sent_has_enqueued_nothing(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect
) -> None:
    async with writes_held_up(conn):
        first = start(store.enqueue("t", 0))
        await until_blocked(await connect())
        later = start(store.enqueue("t", 1), store.enqueue("t", 2))
        await asyncio.sleep(0)
        later[0].cancel()
    ids = await outcomes(first + later)

    assert await stored(conn) == {ids[0]: 0, ids[2]: 2}


async def test_a_flush_whose_callers_have_all_left_does_not_keep_its_connection(
    dsn: str, conn: asyncpg.Connection, connect: Connect
) -> None:
    async with PgJobStore(dsn=dsn, pool_size=1) as store:
        async with writes_held_up(conn):
            callers = start(*(store.enqueue("t", n) for n in range(5)))
            await until_blocked(await connect())
            for caller in callers:
                caller.cancel()
            await asyncio.wait(callers)
            async with store.connection() as own:
                assert await own.fetchval("select count(*) from pqlite.jobs") == 0

        await store.enqueue("t", 6)
        assert list((await stored(conn)).values()) == [6]


async def test_a_job_enqueued_by_a_task_that_ends_at_once_is_enqueued(store: PgJobStore) -> None:
    """The writer is not the first caller's child."""
    first = asyncio.create_task(store.enqueue("t", 1))
    second = asyncio.create_task(store.enqueue("t", 2))
    await asyncio.sleep(0)
    first.cancel()

    job = await store.get(await second)
    assert job.payload == 2


# Keys


async def test_a_key_that_is_held_blocks_neither_keyless_enqueues_nor_other_keys(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect
) -> None:
    async with conn.transaction():
        await store.enqueue("t", dedupe_key="held", conn=conn)
        [waiting] = start(store.enqueue("t", dedupe_key="held"))
        await until_blocked(await connect())

        await outcomes(start(*(store.enqueue("t", n) for n in range(20)), store.enqueue("t", dedupe_key="free")))
        assert not waiting.done()

    assert isinstance((await outcomes([waiting]))[0], int | DedupeKeyBusy)


# Listeners


async def test_a_listener_is_called_once_per_flush_and_before_its_callers_go_on(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    heard: list[int] = []
    store.on_enqueue(lambda: heard.append(1))

    async def enqueue_and_look(n: int) -> int:
        job_id = await store.enqueue("t", n)
        assert heard
        return job_id

    await outcomes(start(*(enqueue_and_look(n) for n in range(300))))

    assert len(heard) == await conn.fetchval("select count(distinct xmin::text) from pqlite.jobs")
    assert len(heard) <= 2


# Close


async def test_jobs_that_are_being_enqueued_when_the_store_closes_are_written(
    dsn: str, conn: asyncpg.Connection, connect: Connect
) -> None:
    store = PgJobStore(dsn=dsn)
    await store.start()
    async with writes_held_up(conn):
        callers = start(store.enqueue("t", 0))
        await until_blocked(await connect())
        callers += start(*(store.enqueue("t", n) for n in range(1, 5)))
        await asyncio.sleep(0)
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        with pytest.raises(NotStarted):
            await store.enqueue("t", 6)

    await closing
    ids = await outcomes(callers)
    assert await stored(conn) == {ids[n]: n for n in range(5)}
    assert writers() == []


async def test_an_enqueue_that_has_no_connection_yet_when_the_store_closes_is_written(
    dsn: str, conn: asyncpg.Connection
) -> None:
    store = PgJobStore(dsn=dsn)
    await store.start()
    callers = start(store.enqueue("t", 0), store.enqueue("t", 1))
    await asyncio.sleep(0)

    await store.close()

    ids = await outcomes(callers)
    assert await stored(conn) == {ids[0]: 0, ids[1]: 1}


async def test_nobody_hangs_when_the_store_closes_before_the_database_has_answered(
    dsn: str, conn: asyncpg.Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "CLOSE_SECONDS", 0.05)
    store = PgJobStore(dsn=dsn)
    await store.start()
    async with writes_held_up(conn):
        callers = start(store.enqueue("t", 0))
        await until_blocked(await connect())
        callers += start(store.enqueue("t", 1))
        await asyncio.sleep(0)

        await store.close()
        errors = await outcomes(callers)

    assert [type(error) for error in errors] == [NotStarted] * 2
    assert "closed before the database said" in str(errors[0])
    await until(lambda: writers() == [], "the writer to end")


async def test_nobody_hangs_and_no_connection_stays_when_the_close_is_cancelled(
    dsn: str, conn: asyncpg.Connection, connect: Connect
) -> None:
    store = PgJobStore(dsn=dsn)
    await store.start()
    async with writes_held_up(conn):
        callers = start(store.enqueue("t", 0))
        await until_blocked(await connect())
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        [error] = await outcomes(callers)

    assert isinstance(error, NotStarted)
    others = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'pqlite'"
    await until(lambda: _is_none(conn.fetchval(others)), "the pool's connection to end")


async def _is_none(count: Awaitable[int]) -> bool:
    return await count == 0


async def test_a_closed_store_can_be_started_and_used_again(dsn: str, conn: asyncpg.Connection) -> None:
    store = PgJobStore(dsn=dsn)
    for n in range(2):
        async with store:
            await outcomes(start(*(store.enqueue("t", n) for _ in range(3))))

    assert sorted((await stored(conn)).values()) == [0, 0, 0, 1, 1, 1]


async def test_a_store_can_be_used_in_one_event_loop_after_another(dsn: str) -> None:
    async def use() -> int:
        async with PgJobStore(dsn=dsn) as store:
            return await store.enqueue("t")

    def in_a_loop_of_its_own(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
        return asyncio.run(work())

    first = await asyncio.to_thread(in_a_loop_of_its_own, use)
    assert await asyncio.to_thread(in_a_loop_of_its_own, use) != first
