"""Many jobs at once: whatever they come from, all or none, in order, and without holding anybody up."""

import asyncio
from collections import Counter, UserDict
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from pqlite import InvalidJob, NewJob, PgJobStore
from pqlite.store import batches
from pqlite.store.batches import CHUNK, SLICE
from tests.store.conftest import Connect
from tests.store.workers import fetch_job

LONG = CHUNK * 2 + 7


class Boom(Exception):
    """What a user's own code raises."""


async def payloads(conn: asyncpg.Connection) -> dict[int, int]:
    return dict(await conn.fetch("select id, payload::text::int from pqlite.jobs"))


async def count(conn: asyncpg.Connection) -> int:
    return int(await conn.fetchval("select count(*) from pqlite.jobs"))


# What they come from


def as_list(jobs: list[Any]) -> list[Any]:
    return jobs


def as_generator(jobs: list[Any]) -> Iterator[Any]:
    yield from jobs


async def as_async_generator(jobs: list[Any]) -> AsyncIterator[Any]:
    for job in jobs:
        yield job


SOURCES = pytest.mark.parametrize("source", [as_list, as_generator, as_async_generator])


@SOURCES
@pytest.mark.parametrize("size", [1, SLICE, CHUNK, LONG])
async def test_the_ids_of_a_batch_belong_to_its_jobs_in_their_order(
    store: PgJobStore, conn: asyncpg.Connection, source: Any, size: int
) -> None:
    verdicts = await store.enqueue_many(source([NewJob(job_type="t", payload=n) for n in range(size)]))

    assert all(verdict.inserted for verdict in verdicts)
    assert [verdict.id for verdict in verdicts] == sorted(verdict.id for verdict in verdicts)
    assert await payloads(conn) == {verdict.id: n for n, verdict in enumerate(verdicts)}


@SOURCES
async def test_jobs_with_and_without_keys_keep_their_places_in_a_long_batch(
    store: PgJobStore, conn: asyncpg.Connection, source: Any
) -> None:
    keys = [f"k{n * 7919 % 3000}" if n % 3 else None for n in range(LONG)]

    verdicts = await store.enqueue_many(
        source([{"job_type": "t", "payload": n, "dedupe_key": key} for n, key in enumerate(keys)])
    )

    first: dict[str | None, int] = {}
    for key, verdict in zip(keys, verdicts, strict=True):
        assert verdict.inserted is (key is None or key not in first)
        assert key is None or verdict.id == first.setdefault(key, verdict.id)
    stored = await payloads(conn)
    assert stored == {verdict.id: n for n, verdict in enumerate(verdicts) if verdict.inserted}


async def test_fifty_thousand_jobs_are_one_transaction(store: PgJobStore, conn: asyncpg.Connection) -> None:
    verdicts = await store.enqueue_many([{"job_type": "t", "payload": n} for n in range(50_000)])

    assert await payloads(conn) == {verdict.id: n for n, verdict in enumerate(verdicts)}
    assert await conn.fetchval("select count(distinct xmin::text) from pqlite.jobs") == 1


async def test_a_generator_may_change_and_yield_the_same_job_again(store: PgJobStore, conn: asyncpg.Connection) -> None:
    def jobs() -> Iterator[NewJob]:
        job = NewJob(job_type="t", payload=[0], tags=[])
        for n in range(SLICE * 2):
            job.payload[0] = n
            job.tags = [str(n)]
            yield job

    verdicts = await store.enqueue_many(jobs())

    rows = await conn.fetch("select payload->>0 as n, tags[1] as tag from pqlite.jobs order by id")
    assert [(row["n"], row["tag"]) for row in rows] == [(str(n), str(n)) for n in range(len(verdicts))]


@pytest.mark.parametrize("source", [as_generator, as_async_generator])
async def test_an_empty_generator_needs_no_database(source: Any) -> None:
    async with PgJobStore(dsn="postgresql://127.0.0.1:1/nowhere") as store:
        assert await store.enqueue_many(source([])) == []


async def test_a_slow_generator_holds_neither_a_connection_nor_a_transaction(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await store.enqueue("t", 0)
    sessions: list[int] = []

    async def jobs() -> AsyncIterator[NewJob]:
        for n in range(LONG):
            if n % CHUNK == 0:
                sessions.append(
                    await conn.fetchval(
                        "select count(*) from pg_stat_activity where datname = current_database() "
                        "and pid <> pg_backend_pid() and state <> 'idle'"
                    )
                )
            yield NewJob(job_type="t", payload=n)

    await store.enqueue_many(jobs())

    assert sessions == [0, 0, 0]


@SOURCES
async def test_other_tasks_get_their_turn_while_a_long_batch_is_checked(store: PgJobStore, source: Any) -> None:
    turns = 0
    checked_at: list[int] = []

    class Job(UserDict[str, Any]):
        def keys(self) -> Any:
            checked_at.append(turns)
            return super().keys()

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    await store.enqueue_many(source([Job(job_type="t", dedupe_key=str(n)) for n in range(LONG)]))
    counting.cancel()

    assert len(checked_at) == LONG
    assert max(Counter(checked_at).values()) <= SLICE


# What is in them


async def test_every_value_of_a_batch_is_stored_as_enqueue_stores_it(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    due = datetime(2199, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    odd = "\n\x1f\u2028,\"'\\{}null \U0001f600"
    variants: list[dict[str, Any]] = [
        {"payload": odd},
        {"payload": {odd: [odd, None]}, "metadata": {odd: odd}, "tags": [odd, "null"]},
        {"run_after": due, "expires_at": due + timedelta(days=1)},
        {"run_after": due + timedelta(hours=1), "queue": odd, "concurrency_key": odd, "priority": -5},
        {"run_after": timedelta(days=400), "max_attempts": 1, "timeout_seconds": 0.25},
        {"dedupe_key": odd, "priority": 2**31 - 1},
        {},
    ]
    jobs = [{"job_type": f"t{n}{odd}"} | fields for n, fields in enumerate(variants)]

    one_by_one = [await store.enqueue(**{**job, "dedupe_key": job.get("dedupe_key") and "other"}) for job in jobs]
    together = [verdict.id for verdict in await store.enqueue_many(jobs)]
    alone = [
        (await store.enqueue_many([{**job, "dedupe_key": job.get("dedupe_key") and "third"}]))[0].id for job in jobs
    ]

    for ids in zip(one_by_one, together, alone, strict=True):
        rows = [dict(await fetch_job(conn, job_id)) for job_id in ids]
        for row in rows:
            row["due_in"] = round((row.pop("run_after") - row.pop("created_at")).total_seconds(), -1)
            del row["id"], row["updated_at"], row["dedupe_key"]
        assert rows[0] == rows[1] == rows[2]


@pytest.mark.parametrize("size", [2, CHUNK + 1])
async def test_what_all_jobs_of_a_batch_have_in_common_is_stored_with_each(
    store: PgJobStore, conn: asyncpg.Connection, size: int
) -> None:
    due = datetime(2199, 1, 2, tzinfo=UTC)
    common = {
        **{"job_type": "t", "run_after": due, "priority": 3, "max_attempts": 2, "timeout_seconds": 1.5, "queue": "q"},
        **{"tags": ["a"], "metadata": {"m": 1}, "concurrency_key": "c", "expires_at": due},
    }

    await store.enqueue_many([common] * size)

    rows = await conn.fetch(
        "select job_type, run_after, priority, max_attempts, timeout_seconds, queue, tags, metadata::text, "
        "concurrency_key, expires_at, count(*) from pqlite.jobs group by 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"
    )
    assert [tuple(row) for row in rows] == [("t", due, 3, 2, 1.5, "q", ["a"], '{"m": 1}', "c", due, size)]


async def test_two_times_that_differ_only_in_their_fold_are_an_hour_apart(store: PgJobStore) -> None:
    """Python calls them equal."""
    autumn = datetime(2030, 11, 3, 1, 30, tzinfo=ZoneInfo("America/New_York"))

    verdicts = await store.enqueue_many(
        [{"job_type": "t", "run_after": autumn.replace(fold=fold)} for fold in (0, 1, 0, 1)]
    )

    times = [(await store.get(verdict.id)).run_after for verdict in verdicts]
    assert [time - times[0] for time in times] == [timedelta(0), timedelta(hours=1)] * 2


@pytest.mark.parametrize("keyed", [True, False])
async def test_long_payloads_are_cut_into_more_statements(
    store: PgJobStore, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, keyed: bool
) -> None:
    monkeypatch.setattr(batches, "CHUNK_CHARACTERS", 2500)
    told: list[int] = []
    jobs = [{"job_type": "t", "payload": [n, "x" * 1000], "dedupe_key": f"k{n}" if keyed else None} for n in range(5)]

    verdicts = await store.enqueue_many(jobs, progress=lambda written, _: told.append(written))

    assert told == [2, 3, 5]
    rows = await conn.fetch("select id, (payload->>0)::int from pqlite.jobs")
    assert dict(rows) == {verdict.id: n for n, verdict in enumerate(verdicts)}


# All or none


@SOURCES
async def test_a_job_that_cannot_be_one_at_the_end_of_a_long_batch_leaves_nothing(
    store: PgJobStore, conn: asyncpg.Connection, source: Any
) -> None:
    jobs: list[Any] = [{"job_type": "t"} for _ in range(LONG - 1)]

    with pytest.raises(InvalidJob, match=f"job {LONG - 1}: priority must be a whole number"):
        await store.enqueue_many(source([*jobs, {"job_type": "t", "priority": "high"}]))

    assert await count(conn) == 0


async def test_a_generator_that_raises_midway_leaves_nothing(store: PgJobStore, conn: asyncpg.Connection) -> None:
    def jobs() -> Iterator[NewJob]:
        yield from (NewJob(job_type="t") for _ in range(LONG))
        raise Boom

    async def jobs_later() -> AsyncIterator[NewJob]:
        for job in jobs():
            yield job

    for given in (jobs(), jobs_later()):
        with pytest.raises(Boom):
            await store.enqueue_many(given)

    assert await count(conn) == 0


async def test_a_type_error_of_a_generators_own_is_not_blamed_on_a_job(store: PgJobStore) -> None:
    def jobs() -> Iterator[NewJob]:
        yield NewJob(job_type="t")
        raise TypeError("the generator's own")

    with pytest.raises(TypeError, match="the generator's own") as raised:
        await store.enqueue_many(jobs())
    assert not isinstance(raised.value, InvalidJob)


@pytest.mark.parametrize("keyed", [True, False])
async def test_a_cancelled_batch_leaves_nothing_and_its_connection_is_usable(
    dsn: str, conn: asyncpg.Connection, keyed: bool
) -> None:
    async with PgJobStore(dsn=dsn, pool_size=1) as store:
        jobs = [NewJob(job_type="t", payload=n, dedupe_key=str(n) if keyed else None) for n in range(LONG)]
        begun = asyncio.Event()

        async def enqueue() -> None:
            await store.enqueue_many(jobs, progress=lambda *_: begun.set())

        task = asyncio.create_task(enqueue())
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])

        assert task.cancelled()
        assert await count(conn) == 0
        assert len(await store.enqueue_many(jobs[:3])) == 3


# The caller's connection


def fail_at_the_second(written: int, total: int) -> None:
    if written > CHUNK:
        raise Boom


@pytest.mark.parametrize("begun_as_text", [True, False])
async def test_a_batch_that_fails_leaves_nothing_of_itself_in_the_callers_transaction_which_goes_on(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect, begun_as_text: bool
) -> None:
    callers = await connect()
    transaction = callers.transaction()
    await (callers.execute("begin") if begun_as_text else transaction.start())
    before = await store.enqueue("before", 1, conn=callers)

    with pytest.raises(Boom):
        await store.enqueue_many([{"job_type": "t"}] * LONG, conn=callers, progress=fail_at_the_second)
    with pytest.raises(InvalidJob):
        await store.enqueue_many([{"job_type": "t"}] * LONG + [{"job_type": ""}], conn=callers)
    [(after, _)] = await store.enqueue_many([{"job_type": "after", "payload": 2}], conn=callers)
    await (callers.execute("commit") if begun_as_text else transaction.commit())

    assert await payloads(conn) == {before: 1, after: 2}


async def test_a_cancelled_batch_leaves_nothing_of_itself_in_the_callers_transaction(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect
) -> None:
    callers = await connect()
    async with callers.transaction():
        task = asyncio.create_task(
            store.enqueue_many([{"job_type": "t"}] * LONG, conn=callers, progress=lambda *_: task.cancel())
        )
        await asyncio.wait([task])
        assert task.cancelled()
        kept = await store.enqueue("kept", 1, conn=callers)

    assert await payloads(conn) == {kept: 1}


async def test_a_long_batch_on_a_connection_without_a_transaction_is_all_or_none(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    with pytest.raises(Boom):
        await store.enqueue_many([{"job_type": "t"}] * LONG, conn=conn, progress=fail_at_the_second)
    assert await count(conn) == 0

    assert len(await store.enqueue_many([{"job_type": "t"}] * LONG, conn=conn)) == LONG
    assert await count(conn) == LONG


async def test_a_short_batch_makes_no_savepoint_in_the_callers_transaction(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    """A transaction with more than 64 of them slows every other session of the server down."""
    async with conn.transaction():
        await store.enqueue_many([{"job_type": "t"}] * 3, conn=conn)

        assert await conn.fetchval("select pg_current_xact_id()::xid::text::bigint") == await conn.fetchval(
            "select xmin::text::bigint from pqlite.jobs limit 1"
        )


# Progress


@SOURCES
async def test_progress_is_told_after_each_chunk_what_is_written_and_how_many_there_are(
    store: PgJobStore, source: Any
) -> None:
    told: list[tuple[int, int]] = []

    await store.enqueue_many(
        source([{"job_type": "t"}] * LONG), progress=lambda written, total: told.append((written, total))
    )

    assert told == [(CHUNK, LONG), (2 * CHUNK, LONG), (LONG, LONG)]


async def test_a_progress_that_raises_rolls_the_batch_back(store: PgJobStore, conn: asyncpg.Connection) -> None:
    with pytest.raises(Boom):
        await store.enqueue_many([{"job_type": "t"}] * LONG, progress=fail_at_the_second)

    assert await count(conn) == 0
