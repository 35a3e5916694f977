"""A pause of a queue, a job type or a key: no claim starts a job of it, whatever the way it goes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from pqlite import ConfigurationError, InvalidJob, PgJobStore
from pqlite.events import Event, Paused, Resumed
from pqlite.store.engine import Lane
from pqlite.testing import MemoryJobStore
from tests.store.conftest import Register
from tests.store.workers import RegisteredWorker

PAUSES: list[dict[str, str]] = [{"queue": "q"}, {"job_type": "t"}, {"key": "k"}]


async def make_suspects(conn: asyncpg.Connection) -> None:
    await conn.execute("update pqlite.jobs set crashes = 1 where job_type = 't'")


async def claimed(worker: RegisteredWorker) -> list[int]:
    lanes = [Lane("q", "t", 0), Lane("default", "other", 0)]
    return sorted(job.id for job in await worker.claim_from(lanes, suspect=True))


@pytest.mark.parametrize("pause", PAUSES)
@pytest.mark.parametrize("suspects", [False, True])
async def test_a_claim_passes_over_what_is_paused_and_takes_the_rest(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker, pause: dict[str, str], suspects: bool
) -> None:
    paused = await store.enqueue("t", queue="q", concurrency_key="k")
    other = await store.enqueue("other")
    if suspects:
        await make_suspects(conn)
    await store.pause(**pause)  # type: ignore[arg-type]

    assert await claimed(worker) == [other]
    assert await store.resume(**pause)
    assert await claimed(worker) == [paused]


@pytest.mark.parametrize("pause", PAUSES)
@pytest.mark.parametrize("suspects", [False, True])
async def test_pickup_passes_over_what_is_paused(
    store: PgJobStore, conn: asyncpg.Connection, pause: dict[str, str], suspects: bool
) -> None:
    await store.enqueue("t", queue="q", concurrency_key="k")
    if suspects:
        await make_suspects(conn)
    await store.pause(**pause)  # type: ignore[arg-type]

    assert await store.pickup("me") is None
    await store.resume(**pause)
    assert await store.pickup("me") is not None


async def test_in_a_lane_with_a_paused_key_the_jobs_with_other_keys_start(
    store: PgJobStore, worker: RegisteredWorker
) -> None:
    keys = ["a", "b", None, "a", "c"]
    ids = [await store.enqueue("other", concurrency_key=key) for key in keys]
    await store.pause(key="a")

    assert await claimed(worker) == [ids[1], ids[2], ids[4]]


async def test_a_lane_that_is_paused_is_not_found(store: PgJobStore, worker: RegisteredWorker) -> None:
    await store.enqueue("t", queue="q")
    await store.enqueue("t", queue="q", run_after=timedelta(hours=1), priority=1)
    await store.enqueue("other")
    await store.pause(queue="q")

    assert [head.lane for head in await worker.engine.lanes(None, None)] == [Lane("default", "other", 0)]


async def test_a_pause_ends_at_its_time(store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker) -> None:
    job_id = await store.enqueue("t", queue="q")
    await store.pause(queue="q", until=timedelta(hours=1))
    assert await claimed(worker) == []
    assert [pause.name for pause in await store.pauses()] == ["q"]

    await conn.execute("update pqlite.pauses set until = clock_timestamp() - interval '1 s'")

    assert await store.pauses() == []
    assert await claimed(worker) == [job_id]


async def test_the_latest_pause_says_who_and_why(store: PgJobStore) -> None:
    await store.pause(queue="q", reason="first", by="ada")
    await store.pause(queue="q", reason="second", by="bob", until=timedelta(minutes=5))
    await store.pause(job_type="t")

    one, two = await store.pauses()

    assert (one.scope, one.name, one.reason, one.until) == ("job_type", "t", None, None)
    assert (two.scope, two.name, two.reason, two.paused_by) == ("queue", "q", "second", "bob")
    assert two.until is not None
    assert timedelta(minutes=4) < two.until - two.paused_at < timedelta(minutes=6)


async def test_pausing_is_announced(dsn: str, store: PgJobStore) -> None:
    seen: list[Event] = []
    async with PgJobStore(dsn=dsn, observers=[seen.append]) as observed:
        await observed.pause(queue="q", reason="why", by="ada")
        assert await observed.resume(queue="q")
        assert not await observed.resume(queue="q")

    assert seen == [Paused("queue", "q", "why", "ada", None), Resumed("queue", "q")]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "name exactly one"),
        ({"queue": "q", "key": "k"}, "name exactly one"),
        ({"queue": ""}, "1 to 200 bytes"),
        ({"key": "k" * 1025}, "1 to 1024 bytes"),
        ({"queue": 7}, "queue must be a string"),
        ({"queue": "q", "reason": 7}, "reason must be text"),
        ({"queue": "q", "until": "soon"}, "until must be a datetime or a timedelta"),
    ],
)
async def test_a_pause_that_makes_no_sense_is_refused(
    store: PgJobStore, arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidJob, match=reason):
        await store.pause(**arguments)
    assert await store.pauses() == []


async def test_a_store_in_memory_refuses_pauses() -> None:
    async with MemoryJobStore() as memory:
        for act in (memory.pause(queue="q"), memory.resume(queue="q"), memory.pauses()):
            with pytest.raises(ConfigurationError, match="has no pauses"):
                await act


async def test_a_role_without_a_right_on_the_table_of_pauses_claims_and_obeys(
    store: PgJobStore, conn: asyncpg.Connection, register: Register
) -> None:
    paused, other = await store.enqueue("t", queue="q"), await store.enqueue("other")
    await store.pause(queue="q")
    worker = await register()
    await conn.execute("create role pqlite_former_worker")
    try:
        await conn.execute("grant usage on schema pqlite to pqlite_former_worker")
        await conn.execute("grant all on pqlite.jobs, pqlite.workers to pqlite_former_worker")
        await conn.execute("grant execute on all routines in schema pqlite to pqlite_former_worker")
        async with conn.transaction():
            await conn.execute("set local role pqlite_former_worker")
            rows = await conn.fetch(
                "select id from pqlite.claim($1, 10, true, null, null, '{q,default}', '{t,other}', '{0,0}', "
                "'{-infinity,-infinity}', '{0,0}')",
                worker.id,
            )
    finally:
        await conn.execute("drop owned by pqlite_former_worker")
        await conn.execute("drop role pqlite_former_worker")

    assert [row["id"] for row in rows] == [other]
    assert (await store.get(paused)).attempts == 0


async def test_what_waits_for_a_pause_says_so(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await store.enqueue("t", queue="q", run_after=timedelta(0))
    await conn.execute("update pqlite.jobs set run_after = now() - interval '1 hour'")
    await store.pause(queue="q", reason="the provider is down", by="ada")

    assert await conn.fetchval("select reason from pqlite.stuck_jobs") == (
        "its queue is paused by ada: the provider is down"
    )
