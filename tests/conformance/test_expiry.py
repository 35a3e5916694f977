"""Jobs with an `expires_at`: none is started after that time, and one that waits then is cancelled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pqlite import JobStatus, Worker
from pqlite.events import JobsExpired
from pqlite.testing import EventLog, drain
from tests.conformance.conftest import Store
from tests.conformance.scene import Scene

HOUR = timedelta(hours=1)


async def enqueue(store: Store, expires_in: timedelta, **options: Any) -> int:
    return await store.enqueue("t", expires_at=datetime.now(UTC) + expires_in, **options)


async def ran(store: Store) -> list[int]:
    return [job.id for job in await drain(store, {"t": lambda _: None})]


async def test_a_job_that_has_expired_is_not_started_and_one_that_has_not_is(store: Store) -> None:
    expired, fresh = await enqueue(store, -HOUR), await enqueue(store, HOUR)

    assert await ran(store) == [fresh]
    job = await store.get(expired)
    assert (job.status, job.attempts) == (JobStatus.CANCELLED, 0)
    assert job.last_error is not None
    assert job.last_error.startswith("expired: it was not started before ")
    assert job.finished_at is not None


async def test_pickup_does_not_start_an_expired_job(store: Store) -> None:
    await enqueue(store, -HOUR)

    assert await store.pickup("me") is None


async def test_a_retry_does_not_start_after_the_time(store: Store, scene: Scene) -> None:
    job_id = await enqueue(store, -HOUR)
    await drain(store, {"t": lambda _: None})

    assert await store.retry(job_id) is JobStatus.READY
    assert await ran(store) == [job_id]
    assert (await store.get(job_id)).expires_at is None


async def test_a_key_is_free_again_when_its_job_has_expired(store: Store) -> None:
    first = await enqueue(store, -HOUR, dedupe_key="k")
    await ran(store)

    assert await store.enqueue("t", dedupe_key="k") != first


@pytest.mark.usefixtures("postgres_only")
async def test_a_worker_without_a_handler_for_it_cancels_an_expired_job_within_seconds(store: Any) -> None:
    log = EventLog()
    job_id = await enqueue(store, timedelta(0), run_after=HOUR)
    async with Worker(store=store, handlers={"other": lambda _: None}, observers=[log]):
        event = await log.wait_for(JobsExpired)

    assert list(event.job_ids) == [job_id]
    assert (await store.get(job_id)).status is JobStatus.CANCELLED


@pytest.mark.usefixtures("postgres_only")
async def test_no_claim_takes_an_expired_job_that_was_not_cancelled_yet(store: Any) -> None:
    ids = [await enqueue(store, -HOUR), await enqueue(store, HOUR), await enqueue(store, -HOUR)]
    async with store.connection() as conn:
        await conn.execute("update pqlite.jobs set crashes = 1 where id = $1", ids[2])
        await conn.execute("select pqlite.register('w', 'w', null, interval '1 minute', '{}')")
        rows = await conn.fetch(
            "select id from pqlite.claim('w', 10, true, null, null, '{default}', '{t}', '{0}', '{-infinity}', '{0}')"
        )

    assert [row["id"] for row in rows] == [ids[1]]
