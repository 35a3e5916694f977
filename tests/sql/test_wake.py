"""NOTIFY is sent while somebody sleeps, and never otherwise: it takes a lock of the whole server."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import asyncpg
import pytest

from pqlite import NewJob, PgJobStore, schema
from pqlite.outcome import Outcome, Verb

Heard = Callable[[], Awaitable[list[str]]]


@pytest.fixture
async def heard(dsn: str) -> AsyncIterator[Heard]:
    """Return a function that returns what was notified since it was called last."""
    connection = await asyncpg.connect(dsn)
    payloads: list[str] = []
    ended = asyncio.Event()
    await connection.add_listener("pqlite_wake", lambda *args: payloads.append(args[3]))
    await connection.add_listener("test_end", lambda *args: ended.set())

    async def since() -> list[str]:
        ended.clear()
        await connection.execute("notify test_end")
        await ended.wait()
        result = payloads.copy()
        payloads.clear()
        return result

    yield since
    await connection.close(timeout=5)


ARM = "select pqlite.arm(60000)"


async def test_nobody_is_notified_of_new_jobs_while_nobody_sleeps(store: PgJobStore, heard: Heard) -> None:
    await store.enqueue("t")
    await store.enqueue_many([NewJob(job_type="t")] * 3)

    assert await heard() == []


@pytest.mark.parametrize(
    "statement",
    [
        "insert into pqlite.jobs (job_type) values ('t')",
        "insert into pqlite.jobs (job_type) select 't' from generate_series(1, 100)",
        "select pqlite.enqueue('t')",
        "copy (select 't') to stdout",
    ],
)
async def test_sleepers_are_notified_once_per_statement_by_whatever_client(
    conn: asyncpg.Connection, heard: Heard, statement: str
) -> None:
    await conn.execute(ARM)

    if statement.startswith("copy"):
        await conn.copy_records_to_table("jobs", schema_name="pqlite", columns=["job_type"], records=[("t",), ("u",)])
    else:
        await conn.execute(statement)

    assert await heard() == ['["default"]']


async def test_sleepers_are_notified_at_commit_and_not_at_all_after_a_rollback(
    store: PgJobStore, conn: asyncpg.Connection, heard: Heard
) -> None:
    await conn.execute(ARM)
    for commits in (True, False):
        transaction = conn.transaction()
        await transaction.start()
        await store.enqueue("t", conn=conn)
        assert await heard() == []
        await (transaction.commit() if commits else transaction.rollback())
        assert await heard() == (['["default"]'] if commits else [])


async def test_asking_for_less_does_not_shorten_what_another_asked_for(conn: asyncpg.Connection, heard: Heard) -> None:
    await conn.execute(ARM)
    await conn.execute("select pqlite.arm(0)")

    await conn.execute("select pqlite.enqueue('t')")

    assert await heard() == ['["default"]']


async def test_nobody_is_notified_after_the_time_that_was_asked_for(conn: asyncpg.Connection, heard: Heard) -> None:
    await conn.execute("select setval('pqlite.wake_until', (extract(epoch from now()) * 1000)::bigint - 1)")

    await conn.execute("select pqlite.enqueue('t')")

    assert await heard() == []


async def test_only_sleepers_of_its_queue_are_told_of_a_job(
    store: PgJobStore, conn: asyncpg.Connection, heard: Heard
) -> None:
    other = "select q from (values ('b'), ('c'), ('d')) v (q) where hashtext(q) & 7 <> hashtext('a') & 7 limit 1"
    queue = await conn.fetchval(other)
    await conn.execute("select pqlite.arm(60000, '{a}')")

    await store.enqueue("t", queue=queue)
    assert await heard() == []
    await store.enqueue("t", queue="a")
    assert await heard() == ['["a"]']
    await store.enqueue_many({"job_type": "t", "queue": q} for q in (queue, "a", "a"))
    assert [sorted(json.loads(payload)) for payload in await heard()] == [sorted({queue, "a"})]


async def test_every_queue_has_a_register(conn: asyncpg.Connection, heard: Heard) -> None:
    queues = [f"q{n}" for n in range(50)]
    for queue in queues:
        await conn.execute("select pqlite.arm(60000, $1)", [queue])
        await conn.execute("insert into pqlite.jobs (job_type, queue) values ('t', $1)", queue)

    assert await heard() == [f'["{queue}"]' for queue in queues]


async def test_a_statement_with_jobs_in_many_queues_names_none(conn: asyncpg.Connection, heard: Heard) -> None:
    await conn.execute(ARM)

    await conn.execute("insert into pqlite.jobs (job_type, queue) select 't', 'q' || n from generate_series(1, 30) n")

    assert await heard() == [""]


async def test_queues_whose_names_are_too_long_for_a_notification_are_not_named(
    conn: asyncpg.Connection, heard: Heard
) -> None:
    await conn.execute(ARM)
    long = "insert into pqlite.jobs (job_type, queue) select 't', n || repeat('\"', 198) from generate_series(1, 20) n"

    await conn.execute(long)

    assert await heard() == [""]


async def test_an_insert_that_inserts_nothing_tells_nobody(
    store: PgJobStore, conn: asyncpg.Connection, heard: Heard
) -> None:
    await store.enqueue("t", dedupe_key="k")
    await conn.execute(ARM)

    await store.enqueue("t", dedupe_key="k")

    assert await heard() == []


async def test_a_request_to_cancel_is_told_even_if_nobody_sleeps(
    store: PgJobStore, conn: asyncpg.Connection, heard: Heard
) -> None:
    waiting, running = await store.enqueue("t", priority=0), await store.enqueue("t", priority=9)
    assert await store.pickup("me") is not None

    await store.cancel(waiting)
    assert await heard() == []
    await store.cancel(running)
    assert await heard() == ["cancel"]


async def test_jobs_that_come_back_tell_sleepers_to_look_behind_their_watermarks(
    store: PgJobStore, conn: asyncpg.Connection, heard: Heard
) -> None:
    engine = store.engine("test")
    await engine.register("w", "w", None, timedelta(seconds=20), {})
    claim = "select id from pqlite.claim('w', 1, true, null, null, '{default}', '{t}', '{0}', '{-infinity}', '{0}')"

    await conn.execute(ARM)
    await store.enqueue("t")
    await conn.execute(claim)
    assert await heard() == ['["default"]']
    [job] = [await store.get(1)]

    await engine.settle("w", [Outcome(job, Verb.RELEASED)])
    assert await heard() == ["rewind"]
    await conn.execute(claim)
    await engine.unregister("w")
    assert await heard() == ["rewind"]
    await engine.reap("nobody")
    assert await heard() == ["rewind"]
    await store.pickup("me")
    await conn.execute("update pqlite.jobs set locked_at = now() - interval '1 hour'")
    await store.reap_stale()
    assert await heard() == ["rewind"]
    await store.retry(1)
    assert len(await heard()) == 1
    await engine.link.close()


async def test_another_schema_has_a_channel_of_its_own(dsn: str, conn: asyncpg.Connection, heard: Heard) -> None:
    await schema.migrate(conn, "other")
    await conn.execute("select other.arm(60000)")
    payloads: list[str] = []
    await conn.add_listener("other_wake", lambda *args: payloads.append(args[3]))

    await conn.execute("select other.enqueue('t')")
    await conn.execute("select 1")

    assert await heard() == []
    assert payloads == ['["default"]']
    await conn.remove_listener("other_wake", lambda *args: None)
    await conn.reset()
