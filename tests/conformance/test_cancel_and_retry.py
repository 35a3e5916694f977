from datetime import timedelta

import pytest

from pqlite import DedupeConflict, JobNotFound, JobStatus
from pqlite.outcome import Verb
from tests.conformance.conftest import Store
from tests.conformance.scene import Holder
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


async def test_a_retried_job_with_attempts_left_gets_no_more(store: Store, holder: Holder) -> None:
    await store.enqueue("t", max_attempts=3)
    job = await holder.claim_one()
    await holder.settle(job, Verb.FAILED)

    await store.retry(job.id)

    assert (await store.get(job.id)).max_attempts == 3


async def test_a_waiting_job_becomes_due_by_retry(store: Store, holder: Holder) -> None:
    job_id = await store.enqueue("t", run_after=timedelta(hours=1))
    assert await holder.claim() == []

    assert await store.retry(job_id) is JobStatus.READY

    assert [job.id for job in await holder.claim()] == [job_id]


async def test_an_outcome_told_after_the_job_was_retried_changes_nothing(store: Store, holder: Holder) -> None:
    await store.enqueue("t")
    job = await holder.claim_one()
    await holder.settle(job, Verb.FAILED)
    await store.retry(job.id)

    assert await holder.settle(job, Verb.FAILED) is not None

    assert (await store.get(job.id)).status is JobStatus.READY


async def test_a_job_that_does_not_exist_is_named(store: Store) -> None:
    for verb in (store.get, store.cancel, store.retry):
        with pytest.raises(JobNotFound, match="There is no job 404"):
            await verb(404)


async def test_a_waiting_job_is_cancelled_at_once(store: Store, holder: Holder) -> None:
    job_id = await store.enqueue("t")

    assert await store.cancel(job_id) is JobStatus.CANCELLED

    after = await store.get(job_id)
    assert (after.status, after.finished_at is None) == (JobStatus.CANCELLED, False)
    assert await holder.claim() == []


@pytest.mark.parametrize("verb", [Verb.DONE, Verb.FAILED, Verb.CANCELLED])
async def test_a_finished_job_is_left_alone_by_cancel_and_runs_again_by_retry(
    store: Store, holder: Holder, verb: Verb
) -> None:
    await store.enqueue("t", max_attempts=1)
    job = await holder.claim_one()
    await holder.settle(job, verb, error="why")
    finished = await store.get(job.id)

    assert await store.cancel(job.id) is finished.status
    assert await store.get(job.id) == finished
    assert await store.retry(job.id) is JobStatus.READY

    after = await store.get(job.id)
    assert (after.status, after.attempts, after.max_attempts, after.finished_at) == (JobStatus.READY, 1, 2, None)
    assert (await holder.claim_one()).id == job.id


async def test_a_running_job_is_left_alone_by_retry(store: Store, holder: Holder) -> None:
    await store.enqueue("t")
    job = await holder.claim_one()
    before = await store.get(job.id)

    assert await store.retry(job.id) is JobStatus.RUNNING

    assert await store.get(job.id) == before


async def test_a_job_whose_key_a_newer_active_job_holds_cannot_be_retried(store: Store, holder: Holder) -> None:
    await store.enqueue("t", dedupe_key="k")
    old = await holder.claim_one()
    await holder.settle(old, Verb.FAILED)
    await store.enqueue("t", dedupe_key="k")

    with pytest.raises(DedupeConflict, match="A newer active job holds the dedupe key"):
        await store.retry(old.id)

    assert (await store.get(old.id)).status is JobStatus.FAILED
