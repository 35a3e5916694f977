from datetime import timedelta

import pytest

from pqlite import JobNotFound, JobStatus
from pqlite.outcome import Verb
from tests.conformance.conftest import Store
from tests.store.workers import RegisteredWorker


async def test_a_running_job_is_asked_to_cancel_and_its_worker_told_at_its_next_renewal(
    store: Store, worker: RegisteredWorker
) -> None:
    for _ in range(2):
        await store.enqueue("t")
    wanted, _other = await worker.claim()

    assert await store.cancel(wanted.id) is JobStatus.RUNNING

    lease = timedelta(seconds=20)
    assert await worker.engine.renew(worker.id, lease, None, deadline=5.0) == [(wanted.id, wanted.claims)]
    first = (await store.get(wanted.id)).cancel_requested_at
    assert first is not None
    await store.cancel(wanted.id)
    assert (await store.get(wanted.id)).cancel_requested_at == first


async def test_a_retried_job_with_attempts_left_gets_no_more(store: Store, worker: RegisteredWorker) -> None:
    await store.enqueue("t", max_attempts=3)
    job = await worker.claim_one()
    await worker.settle(job, Verb.FAILED)

    await store.retry(job.id)

    assert (await store.get(job.id)).max_attempts == 3


async def test_a_waiting_job_becomes_due_by_retry(store: Store, worker: RegisteredWorker) -> None:
    job_id = await store.enqueue("t", run_after=timedelta(hours=1))
    assert await worker.claim() == []

    assert await store.retry(job_id) is JobStatus.READY

    assert [job.id for job in await worker.claim()] == [job_id]


async def test_an_outcome_told_after_the_job_was_retried_changes_nothing(
    store: Store, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    job = await worker.claim_one()
    await worker.settle(job, Verb.FAILED)
    await store.retry(job.id)

    assert await worker.settle(job, Verb.FAILED) is not None

    assert (await store.get(job.id)).status is JobStatus.READY


async def test_a_job_that_does_not_exist_is_named(store: Store) -> None:
    for verb in (store.get, store.cancel, store.retry):
        with pytest.raises(JobNotFound, match="There is no job 404"):
            await verb(404)
