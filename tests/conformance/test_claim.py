from collections import Counter
from datetime import timedelta

import pytest

from pqlite import LeaseLost, NewJob
from pqlite.store.engine import Lane, Mark
from tests.conformance.conftest import Store
from tests.store.workers import BEGINNING, RegisteredWorker


async def test_lanes_are_served_in_the_order_they_are_asked_up_to_the_limit(
    store: Store, worker: RegisteredWorker
) -> None:
    for priority in (0, 5, 9):
        await store.enqueue_many([NewJob(job_type="t", priority=priority)] * 2)

    heads = await worker.engine.lanes(None, None)
    claimed = await worker.claim(5)

    assert [head.lane.priority for head in heads] == [9, 5, 0]
    assert Counter(job.priority for job in claimed) == {9: 2, 5: 2, 0: 1}


async def test_jobs_are_claimed_lane_by_lane_in_the_order_asked(store: Store, worker: RegisteredWorker) -> None:
    await store.enqueue("a")
    await store.enqueue("b")
    lanes = [
        (Lane("default", job_type, 0), Mark(head.mark.run_after, 0))
        for job_type in ("nothing", "b", "a")
        for head in (await worker.engine.lanes(None, None))[:1]
    ]

    claimed, _ = await worker.engine.claim(worker.id, 10, suspect=False, queues=None, types=None, lanes=lanes)

    assert [(lane, job.job_type) for lane, [job] in claimed] == [(lanes[1][0], "b"), (lanes[2][0], "a")]


async def test_a_claim_starts_behind_the_watermark(store: Store, worker: RegisteredWorker) -> None:
    ids = [verdict.id for verdict in await store.enqueue_many([NewJob(job_type="t")] * 4)]
    second = await store.get(ids[1])

    claimed = await worker.claim_from([Lane("default", "t", 0)], after=Mark(second.run_after, second.id))

    assert [job.id for job in claimed] == ids[2:]


async def test_a_job_that_is_not_due_is_not_claimed(store: Store, worker: RegisteredWorker) -> None:
    await store.enqueue("t", run_after=timedelta(hours=1))
    due = await store.enqueue("t")

    assert [job.id for job in await worker.claim(suspect=True)] == [due]


async def test_a_worker_without_a_registration_cannot_claim(store: Store, worker: RegisteredWorker) -> None:
    await store.enqueue("t")

    stranger = RegisteredWorker(worker.engine, "nobody")
    for suspect in (True, False):
        with pytest.raises(LeaseLost, match="worker nobody was declared dead"):
            await stranger.claim(suspect=suspect)


@pytest.mark.parametrize(
    ("attempts", "claimed"),
    [
        ([1, 1, 1, 1], 2),  # only what starts now
        ([5, 5, 5, 1, 5], 3),  # none behind it either: the watermark must not pass it
        ([1, 5, 5, 5, 5], 4),
        ([5, 5, 5, 5, 5], 4),
    ],
)
async def test_a_job_that_may_start_only_once_is_never_prefetched(
    store: Store, worker: RegisteredWorker, attempts: list[int], claimed: int
) -> None:
    ids = [await store.enqueue("t", max_attempts=number) for number in attempts]

    jobs, cut = await worker.engine.claim(
        worker.id, 2, prefetch=2, suspect=False, queues=None, types=None, lanes=[(Lane("default", "t", 0), BEGINNING)]
    )

    assert sorted(job.id for _, batch in jobs for job in batch) == ids[:claimed]
    assert cut is (claimed < min(4, len(ids)))
