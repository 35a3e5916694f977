"""One job at a time, for programs without a worker: pickup, mark_done, mark_error."""

import asyncio
from typing import Any

import asyncpg
import pytest
from pydantic import BaseModel

from pqlite import JobStatus, LeaseLost, NewJob, PgJobStore
from pqlite.job import Job
from pqlite.store import by_hand, postgres
from tests.store.workers import TellingAsyncio, fetch_job


async def pick_up(store: PgJobStore, **narrower: Any) -> Job:
    job = await store.pickup("me", **narrower)
    assert job is not None
    return job


async def test_a_picked_up_job_is_fenced_by_a_name_of_its_own(store: PgJobStore, conn: asyncpg.Connection) -> None:
    for _ in range(2):
        await store.enqueue("t", {"a": 1})

    first, second = await pick_up(store), await pick_up(store)

    assert (first.status, first.attempts, first.claims, first.payload) == (JobStatus.RUNNING, 1, 1, {"a": 1})
    assert first.locked_by is not None
    assert first.locked_by.startswith("me-")
    assert first.locked_by != second.locked_by
    assert (await fetch_job(conn, first.id))["locked_by"] == first.locked_by


async def test_pickup_steps_over_a_job_that_somebody_has_locked(store: PgJobStore, conn: asyncpg.Connection) -> None:
    first = await store.enqueue("t")
    second = await store.enqueue("t")

    async with conn.transaction():
        await conn.execute("select from pqlite.jobs where id = $1 for update", first)
        assert (await pick_up(store)).id == second
        assert await store.pickup("me") is None


async def test_a_suspect_is_picked_up_when_nothing_else_is_due(store: PgJobStore, conn: asyncpg.Connection) -> None:
    suspect = await store.enqueue("t", priority=9)
    await conn.execute("update pqlite.jobs set crashes = 1")
    plain = await store.enqueue("t")

    assert [(await pick_up(store)).id for _ in range(2)] == [plain, suspect]


# Outcomes


class Report(BaseModel):
    rows: int


async def test_a_job_another_store_picked_up_cannot_be_marked_by_its_id(store: PgJobStore, dsn: str) -> None:
    await store.enqueue("t")
    job = await pick_up(store)

    async with PgJobStore(dsn=dsn) as other:
        with pytest.raises(LeaseLost, match=f"This store has not picked up job {job.id}"):
            await other.mark_done(job.id)
        await other.mark_done(job)  # the job carries its fence


async def test_a_job_that_was_given_to_another_meanwhile_is_lost(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await store.enqueue("t")
    stale = await pick_up(store)
    await conn.execute("update pqlite.jobs set locked_at = locked_at - interval '1 hour'")
    assert await store.reap_stale() == 1
    current = await pick_up(store)

    with pytest.raises(LeaseLost):
        await store.mark_error(stale, "late", terminal=True)
    await store.mark_done(current.id)
    with pytest.raises(LeaseLost):
        await store.mark_done(stale)

    assert (await store.get(stale.id)).status is JobStatus.DONE


async def test_marking_waits_for_a_stranger_who_has_locked_the_row(
    store: PgJobStore, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.enqueue("t")
    job = await pick_up(store)
    telling = TellingAsyncio()
    monkeypatch.setattr(postgres, "asyncio", telling)
    locking = conn.transaction()
    await locking.start()
    await conn.execute("select from pqlite.jobs for update")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(store.mark_done(job))
        await telling.slept.wait()
        await locking.rollback()

    assert (await store.get(job.id)).status is JobStatus.DONE


async def test_settled_jobs_are_not_kept_in_memory_for_ever(store: PgJobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_hand, "SETTLED_KEPT", 3)
    await store.enqueue_many([NewJob(job_type="t")] * 6)

    jobs = [await pick_up(store) for _ in range(6)]
    for job in jobs:
        await store.mark_done(job.id)

    await store.mark_done(jobs[-1].id)
    with pytest.raises(LeaseLost, match="has not picked up"):
        await store.mark_done(jobs[0].id)


async def test_what_is_picked_up_commits_synchronously(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await store.enqueue("t")

    async with conn.transaction():
        await conn.fetch("select id from pqlite.pickup('me', null, null)")
        assert await conn.fetchval("show synchronous_commit") == "on"
