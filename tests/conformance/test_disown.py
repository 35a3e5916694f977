"""Claims whose answer was lost on the way are given back, with the attempt refunded."""

from datetime import timedelta

from pqlite import JobStatus
from tests.conformance.conftest import Store
from tests.store.conftest import Register
from tests.store.workers import RegisteredWorker

RECENT = timedelta(seconds=90)


async def test_another_workers_jobs_are_never_disowned(store: Store, register: Register) -> None:
    mine, other = await register(), await register()
    await store.enqueue("t")
    await other.claim_one()

    assert await mine.engine.disown(mine.id, [], RECENT) == []


async def test_a_lost_claim_that_was_asked_to_cancel_is_cancelled(store: Store, worker: RegisteredWorker) -> None:
    await store.enqueue("t")
    job = await worker.claim_one()
    await store.cancel(job.id)

    assert len(await worker.engine.disown(worker.id, [], RECENT)) == 1

    after = await store.get(job.id)
    assert (after.status, after.attempts, after.finished_at is None) == (JobStatus.CANCELLED, 0, False)
