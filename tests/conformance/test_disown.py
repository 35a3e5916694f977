"""Claims whose answer was lost on the way are given back, with the attempt refunded."""

from datetime import timedelta

import pytest

from pqlite import JobStatus
from pqlite.store.engine import Unknown
from tests.conformance.conftest import Store
from tests.conformance.scene import Scene
from tests.store.conftest import Register
from tests.store.workers import RegisteredWorker

pytestmark = pytest.mark.usefixtures("postgres_only")


async def test_another_workers_jobs_are_never_disowned(store: Store, register: Register) -> None:
    mine, other = await register(), await register()
    await store.enqueue("t")
    await other.claim_one()

    assert await mine.disown() == []


async def test_a_lost_claim_that_was_asked_to_cancel_is_cancelled(store: Store, worker: RegisteredWorker) -> None:
    await store.enqueue("t")
    job = await worker.claim_one()
    await store.cancel(job.id)

    assert len(await worker.disown()) == 1

    after = await store.get(job.id)
    assert (after.status, after.attempts, after.finished_at is None) == (JobStatus.CANCELLED, 0, False)


async def test_what_is_known_and_what_was_claimed_before_the_window_is_left_alone(
    store: Store, scene: Scene, worker: RegisteredWorker
) -> None:
    for _ in range(3):
        await store.enqueue("t")
    await worker.claim_one()
    await scene.pass_time(timedelta(minutes=2))
    known, lost = await worker.claim()

    assert await worker.disown([known.id]) == [lost.id]

    after = await store.get(lost.id)
    assert (after.status, after.attempts, after.claims, after.crashes) == (JobStatus.READY, 0, 1, 0)
    assert (after.run_after, after.locked_by) == (lost.run_after, None)


async def test_an_audit_that_arrives_late_leaves_alone_what_was_claimed_meanwhile(
    store: Store, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    lost = await worker.claim_one()
    audit = Unknown(worker.id, [], timedelta(seconds=90), await worker.engine.arm(timedelta(days=-1)))
    await store.enqueue("t")
    claimed_since = await worker.claim_one()

    assert await worker.engine.disown(audit) == [lost.id]

    assert (await store.get(claimed_since.id)).status is JobStatus.RUNNING
