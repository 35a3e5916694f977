"""Finished jobs go when they are old enough, and no others."""

from datetime import timedelta

import pytest

from pqlite import JobNotFound, JobStatus
from pqlite.outcome import Verb
from tests.conformance.conftest import Store
from tests.conformance.scene import Scene, locked
from tests.store.workers import RegisteredWorker

pytestmark = pytest.mark.usefixtures("postgres_only")

DAY, WEEK = timedelta(days=1), timedelta(days=7)
ENDS = {Verb.DONE: JobStatus.DONE, Verb.FAILED: JobStatus.FAILED, Verb.CANCELLED: JobStatus.CANCELLED}


@pytest.fixture
async def history(store: Store, scene: Scene, worker: RegisteredWorker) -> dict[int, JobStatus]:
    """Jobs of every status, eight days old; by id."""
    for _ in range(2):
        for _ in ENDS:
            await store.enqueue("t")
    jobs = await worker.claim()
    for job, verb in zip(jobs, [*ENDS, *ENDS], strict=True):
        await worker.settle(job, verb)
    await store.enqueue("t")
    await worker.claim_one()
    await store.enqueue("t")
    await scene.pass_time(timedelta(days=8))
    everything = [await store.get(job_id) for job_id in range(1, 9)]
    return {job.id: job.status for job in everything}


async def prune_all(store: Store, done: timedelta | None, failed: timedelta | None, chunk: int) -> int:
    total, cursor = 0, None
    while True:
        cursor, deleted = await store.prune(done, failed, cursor, chunk=chunk)
        total += deleted
        if cursor is None and not deleted:
            return total


@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize(
    ("done", "failed", "gone"),
    [
        (WEEK, WEEK, {"DONE", "FAILED", "CANCELLED"}),
        (timedelta(0), None, {"DONE"}),
        (None, WEEK, {"FAILED", "CANCELLED"}),
        (9 * DAY, 9 * DAY, set()),
        (None, None, set()),
    ],
)
async def test_only_finished_jobs_beyond_their_retention_are_deleted(
    store: Store,
    history: dict[int, JobStatus],
    done: timedelta | None,
    failed: timedelta | None,
    chunk: int,
    gone: set[str],
) -> None:
    deleted = await prune_all(store, done, failed, chunk)

    assert deleted == sum(status in gone for status in history.values())
    for job_id, status in history.items():
        if status in gone:
            with pytest.raises(JobNotFound):
                await store.get(job_id)
        else:
            assert (await store.get(job_id)).status is status


async def test_a_finished_job_that_a_transaction_has_locked_is_not_deleted(
    store: Store, history: dict[int, JobStatus]
) -> None:
    done = next(job_id for job_id, status in history.items() if status is JobStatus.DONE)
    async with locked(store, done):
        await prune_all(store, WEEK, WEEK, 1000)

    assert (await store.get(done)).status is JobStatus.DONE


async def test_pruning_an_empty_store_does_nothing(store: Store) -> None:
    assert await store.prune(WEEK, WEEK) == (None, 0)


async def test_pruning_goes_no_further_where_all_jobs_are_younger_than_the_retention(store: Store) -> None:
    for _ in range(3):
        await store.enqueue("t")

    assert await store.prune(DAY, None, chunk=2) == (None, 0)
