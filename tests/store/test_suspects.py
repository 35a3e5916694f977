"""Jobs whose worker died: how many of them a worker may claim at once, and which of them alone."""

from collections.abc import Sequence

import asyncpg
import pytest

from pqlite import PgJobStore
from pqlite.outcome import Verb
from tests.store.conftest import Register
from tests.store.test_claim import CLAIM
from tests.store.workers import RegisteredWorker


async def suspects(
    store: PgJobStore, conn: asyncpg.Connection, crashes: Sequence[int], max_attempts: int = 9
) -> list[int]:
    """Enqueue jobs that were held by workers that died so often."""
    ids = [await store.enqueue("t", max_attempts=max_attempts) for _ in crashes]
    for job_id, number in zip(ids, crashes, strict=True):
        await conn.execute("update pqlite.jobs set crashes = $2, attempts = $2 where id = $1", job_id, number)
    return ids


async def claimed(worker: RegisteredWorker, limit: int = 100) -> list[int]:
    return [job.id for job in await worker.claim_from([], limit, suspect=True)]


async def test_half_of_a_workers_slots_run_suspects_at_the_same_time(
    store: PgJobStore, conn: asyncpg.Connection, register: Register
) -> None:
    worker = await register(concurrency=7)
    ids = await suspects(store, conn, [1] * 8)
    plain = await store.enqueue("t")

    first = await worker.claim(7, suspect=True)
    assert [job.id for job in first] == [*ids[:3], plain]
    assert await claimed(worker) == []

    assert await worker.settle(first[1], Verb.DONE) is None
    assert await claimed(worker) == [ids[3]]


@pytest.mark.parametrize("info", [{}, {"concurrency": 1}, {"concurrency": 3}])
async def test_a_worker_of_few_slots_runs_one_suspect_at_a_time(
    store: PgJobStore, conn: asyncpg.Connection, register: Register, info: dict[str, int]
) -> None:
    worker = await register(**info)
    ids = await suspects(store, conn, [1, 1])

    assert await claimed(worker) == ids[:1]
    assert await claimed(worker) == []


async def test_no_more_suspects_are_claimed_than_there_is_room_for(
    store: PgJobStore, conn: asyncpg.Connection, register: Register
) -> None:
    worker = await register(concurrency=20)
    ids = await suspects(store, conn, [1] * 8)

    assert await claimed(worker, 2) == ids[:2]
    assert await claimed(worker, 3) == ids[2:5]


@pytest.mark.parametrize(("crashes", "max_attempts"), [([2, 1, 1], 9), ([1, 1, 1], 2)], ids=["twice", "last attempt"])
async def test_a_job_whose_workers_died_twice_or_whose_last_attempt_it_is_runs_beside_no_other_suspect(
    store: PgJobStore, conn: asyncpg.Connection, register: Register, crashes: list[int], max_attempts: int
) -> None:
    worker, other = await register(concurrency=20), await register(concurrency=20)
    ids = await suspects(store, conn, crashes, max_attempts)

    [alone] = await worker.claim_from([], suspect=True)
    assert alone.id == ids[0]
    assert await claimed(worker) == []
    elsewhere = await claimed(other)
    assert elsewhere == ids[1:] if max_attempts == 9 else ids[1:2]

    assert await worker.settle(alone, Verb.RETRY, error="x", delay=3600.0) is None
    assert await claimed(worker) == [job_id for job_id in ids[1:] if job_id not in elsewhere][:1]


async def test_suspects_do_not_overtake_one_that_must_run_alone(
    store: PgJobStore, conn: asyncpg.Connection, register: Register
) -> None:
    """Else a stream of new suspects could keep it waiting for ever."""
    worker = await register(concurrency=20)
    ids = await suspects(store, conn, [1, 1, 2, 1])

    before = await worker.claim_from([], suspect=True)
    assert [job.id for job in before] == ids[:2]
    assert await claimed(worker) == []
    for job in before:
        assert await worker.settle(job, Verb.DONE) is None
    assert await claimed(worker) == [ids[2]]


async def test_ordinary_jobs_run_beside_a_suspect_that_must_run_alone(
    store: PgJobStore, conn: asyncpg.Connection, register: Register
) -> None:
    worker = await register(concurrency=20)
    ids = [*await suspects(store, conn, [2]), await store.enqueue("t"), await store.enqueue("t")]

    assert [job.id for job in await worker.claim(suspect=True)] == ids


async def test_suspects_that_another_claim_has_locked_are_passed_over(
    store: PgJobStore, conn: asyncpg.Connection, register: Register
) -> None:
    worker = await register(concurrency=20)
    ids = await suspects(store, conn, [1, 2, 1, 1])

    async with conn.transaction():
        await conn.execute("select from pqlite.jobs where id = any ($1) for update", ids[:2])
        assert await claimed(worker) == ids[2:]


async def test_a_full_worker_locks_no_suspect(store: PgJobStore, conn: asyncpg.Connection, register: Register) -> None:
    """Another worker that looks at this moment, and then sleeps, must see it."""
    worker, idle = await register(concurrency=20), await register(concurrency=20)
    ids = await suspects(store, conn, [1])

    async with conn.transaction():
        full = CLAIM.replace("10, false", "0, true").replace("'{0}')", "'{0}', 5)")
        assert await conn.fetch(full, worker.id) == []
        assert await claimed(idle) == ids


async def test_a_worker_that_runs_all_the_suspects_it_may_goes_on_with_ordinary_jobs_and_prefetches_them(
    store: PgJobStore, conn: asyncpg.Connection, register: Register
) -> None:
    worker = await register(concurrency=2)
    await suspects(store, conn, [1, 1])
    assert len(await claimed(worker)) == 1
    plain = [await store.enqueue("t") for _ in range(2)]

    prefetched = await conn.fetch(CLAIM.replace("10, false", "0, true").replace("'{0}')", "'{0}', 5)"), worker.id)

    assert sorted(row["id"] for row in prefetched) == plain


async def test_jobs_that_nobody_crashed_with_are_claimed_without_a_suspect_unless_it_is_asked_for(
    store: PgJobStore, conn: asyncpg.Connection, register: Register
) -> None:
    worker = await register(concurrency=20)
    await suspects(store, conn, [1])
    plain = await store.enqueue("t")

    assert [job.id for job in await worker.claim()] == [plain]


async def test_what_is_picked_up_by_hand_is_one_suspect_at_a_time(
    store: PgJobStore, conn: asyncpg.Connection, register: Register
) -> None:
    ids = await suspects(store, conn, [2, 1])

    for job_id in ids:
        job = await store.pickup("me")
        assert job is not None
        assert job.id == job_id
