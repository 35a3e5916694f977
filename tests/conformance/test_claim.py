"""Who gets which job, in what order."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pqlite import JobStatus, LeaseLost, NewJob
from pqlite.outcome import Verb
from pqlite.store.engine import Lane, Mark
from tests.conformance.conftest import Store
from tests.conformance.scene import locked, make_suspect
from tests.store.conftest import Register
from tests.store.workers import BEGINNING, RegisteredWorker

pytestmark = pytest.mark.usefixtures("postgres_only")


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


def of_version(version: object) -> NewJob:
    return NewJob(job_type="t", metadata={"payload_version": version})


async def claimed_knowing(worker: RegisteredWorker, known: dict[str, int], **options: Any) -> list[int]:
    """Claim as a worker does that knows these versions, whatever `lanes` would tell it."""
    lanes = [(Lane("default", job_type, 0), BEGINNING) for job_type in ("t", "u")]
    claimed, _ = await worker.engine.claim(
        *(worker.id, 100), queues=None, types=None, lanes=lanes, versions=known, **{"suspect": False, **options}
    )
    return sorted(job.id for _, jobs in claimed for job in jobs)


async def test_payloads_that_are_too_new_are_left_to_others_and_hide_nothing_behind_them(
    store: Store, worker: RegisteredWorker
) -> None:
    too_new, *known = [
        await store.enqueue_many([of_version(3), of_version(3), of_version(2)]),
        await store.enqueue_many([NewJob(job_type="t"), NewJob(job_type="u", metadata={"payload_version": 9})]),
    ]
    *newer, of_today = (verdict.id for verdict in too_new)
    others = [verdict.id for verdict in known[0]]

    [head, _] = sorted(await worker.engine.lanes(None, ["t", "u"], versions={"t": 2}))
    assert head.mark.id == of_today
    assert await claimed_knowing(worker, {"t": 2}) == [of_today, *others]
    assert await worker.engine.lanes(None, None, versions={"t": 2}) == []
    assert await claimed_knowing(worker, {"t": 2}) == []

    left = [await store.get(job_id) for job_id in newer]
    assert {(job.status, job.attempts, job.claims) for job in left} == {(JobStatus.READY, 0, 0)}
    assert await claimed_knowing(worker, {"t": 3}) == newer


async def test_a_lane_that_is_known_has_no_head_while_all_behind_its_mark_is_too_new(
    store: Store, worker: RegisteredWorker
) -> None:
    await store.enqueue_many([of_version(2)] * 3)
    known = [(Lane("default", "t", 0), BEGINNING)]

    assert await worker.engine.lanes(None, ["t"], known, versions={"t": 1}) == []

    later = await store.enqueue("t")
    [head] = await worker.engine.lanes(None, ["t"], known, versions={"t": 1})
    assert head.mark.id == later


async def test_a_suspect_that_is_too_new_is_left_to_others_and_keeps_no_room_free(
    store: Store, worker: RegisteredWorker, register: Register
) -> None:
    suspect = (await store.enqueue_many([of_version(2)]))[0].id
    await make_suspect(register)
    other = await store.enqueue("t")

    claimed, _ = await worker.engine.claim(
        *(worker.id, 0),
        prefetch=1,
        suspect=True,
        queues=None,
        types=None,
        lanes=[(Lane("default", "t", 0), BEGINNING)],
        versions={"t": 1},
    )

    assert [job.id for _, jobs in claimed for job in jobs] == [other]
    assert await claimed_knowing(worker, {"t": 1}, suspect=True) == []
    assert await claimed_knowing(worker, {"t": 2}, suspect=True) == [suspect]


@pytest.mark.parametrize("version", ["3", True, None, [3], {"is": 3}])
async def test_a_version_that_is_no_number_is_claimed_so_that_its_handler_can_say_so(
    store: Store, worker: RegisteredWorker, version: object
) -> None:
    job_id = (await store.enqueue_many([of_version(version)]))[0].id

    assert await claimed_knowing(worker, {"t": 1}) == [job_id]


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


async def test_a_claimed_job_is_running_in_the_name_of_its_worker(store: Store, worker: RegisteredWorker) -> None:
    job_id = await store.enqueue("t", {"a": 1}, tags=["x"], metadata={"m": 1}, timeout_seconds=3, dedupe_key="k")

    job = await worker.claim_one()

    kept = await store.get(job_id)
    assert (kept.status, kept.locked_by, kept.attempts, kept.claims) == (JobStatus.RUNNING, worker.id, 1, 1)
    assert (job.id, job.status, job.locked_by, job.locked_at) == (
        *(job_id, JobStatus.RUNNING),
        *(worker.id, kept.locked_at),
    )
    assert (job.payload, job.tags, job.metadata) == ({"a": 1}, ["x"], {"m": 1})
    assert (job.attempts, job.claims, job.timeout_seconds, job.dedupe_key) == (1, 1, 3.0, "k")


async def test_a_job_that_is_claimed_again_keeps_no_figures_of_its_latest_attempt(
    store: Store, worker: RegisteredWorker
) -> None:
    job_id = await store.enqueue("t")
    first = await worker.claim_one()
    assert await worker.settle(first, Verb.RETRY, error="x", delay=0.0, duration_ms=7) is None
    between = await store.get(job_id)

    await worker.claim_one()
    job = await store.get(job_id)

    assert (between.duration_ms, job.duration_ms) == (7, None)
    assert job.updated_at == job.locked_at


async def test_jobs_of_a_lane_are_claimed_in_the_order_of_due_time_and_then_of_id(
    store: Store, worker: RegisteredWorker
) -> None:
    noon = datetime(2020, 1, 1, 12, tzinfo=UTC)
    ids = [await store.enqueue("t", run_after=noon - timedelta(minutes=minutes)) for minutes in (5, 10, 5, 1)]

    assert [job.id for job in await worker.claim()] == [ids[1], ids[0], ids[2], ids[3]]


async def test_a_claim_of_nothing_returns_nothing(store: Store, worker: RegisteredWorker) -> None:
    assert await worker.claim_from([Lane("default", "t", 0)], suspect=True) == []
    assert await worker.claim_from([], suspect=True) == []


async def test_a_job_that_a_transaction_has_locked_is_stepped_over(store: Store, worker: RegisteredWorker) -> None:
    first, second = [await store.enqueue("t") for _ in range(2)]

    async with locked(store, first):
        assert [job.id for job in await worker.claim()] == [second]

    assert [job.id for job in await worker.claim()] == [first]


async def test_a_suspect_counts_against_the_limit_and_comes_before_the_lanes(
    store: Store, register: Register, worker: RegisteredWorker
) -> None:
    suspect = await store.enqueue("t")
    await make_suspect(register)
    await store.enqueue("t", priority=9)
    lanes = [(Lane("default", "t", 9), BEGINNING)]

    claimed, _ = await worker.engine.claim(worker.id, 1, suspect=True, queues=None, types=None, lanes=lanes)

    assert [(lane, job.id) for lane, [job] in claimed] == [(None, suspect)]


async def test_a_suspect_of_another_type_or_queue_is_left_alone(
    store: Store, register: Register, worker: RegisteredWorker
) -> None:
    await store.enqueue("t", queue="q")
    await make_suspect(register)

    assert await worker.claim_from([], suspect=True, types=["other"]) == []
    assert await worker.claim_from([], suspect=True, queues=["default"]) == []
    assert len(await worker.claim_from([], suspect=True, queues=["q"], types=["t"])) == 1


async def test_a_suspect_is_never_prefetched_nor_anything_while_one_waits_for_room(
    store: Store, register: Register, worker: RegisteredWorker
) -> None:
    suspect = await store.enqueue("t")
    await make_suspect(register)
    await store.enqueue("t")
    lanes = [(Lane("default", "t", 0), BEGINNING)]

    full, _ = await worker.engine.claim(worker.id, 0, prefetch=5, suspect=True, queues=None, types=None, lanes=lanes)
    free, _ = await worker.engine.claim(worker.id, 1, prefetch=5, suspect=True, queues=None, types=None, lanes=lanes)

    assert full == []
    assert free[0][1][0].id == suspect


async def test_a_suspect_that_this_worker_would_not_run_now_keeps_no_room_free(
    store: Store, worker: RegisteredWorker, register: Register
) -> None:
    await store.enqueue("t", queue="q")
    await make_suspect(register)
    await store.enqueue_many([NewJob(job_type="other")] * 3)

    async def prefetched(**only: Any) -> list[str]:
        options = {"queues": None, "types": None, "lanes": [(Lane("default", "other", 0), BEGINNING)], **only}
        claimed, _ = await worker.engine.claim(worker.id, 0, prefetch=1, suspect=True, **options)
        return [job.job_type for _, jobs in claimed for job in jobs]

    assert await prefetched() == []
    assert await prefetched(types=["other"]) == ["other"]
    assert await prefetched(queues=["default"]) == ["other"]

    [suspect] = await worker.claim_from([], suspect=True)
    assert await worker.settle(suspect, Verb.RETRY, error="x", delay=3600.0) is None
    assert await worker.claim_from([], suspect=True) == []
    assert await prefetched() == ["other"]


async def test_a_worker_that_was_declared_dead_cannot_claim(store: Store, worker: RegisteredWorker) -> None:
    for _ in range(2):
        await store.enqueue("t")
    await worker.claim_one()
    await worker.engine.unregister(worker.id)

    with pytest.raises(LeaseLost, match=f"worker {worker.id} was declared dead"):
        await worker.claim()


async def test_eight_claimers_share_no_job(store: Store, register: Register) -> None:
    await store.enqueue_many([{"job_type": "t"}] * 200)
    workers = [await register() for _ in range(8)]

    async def claim_all(worker: RegisteredWorker) -> list[int]:
        mine = []
        while jobs := await worker.claim(7):
            mine += [job.id for job in jobs]
        return mine

    async with asyncio.TaskGroup() as tasks:
        claims = [tasks.create_task(claim_all(worker)) for worker in workers]

    # A claim may find all that it asked for locked by the others: the lanes look before it did not.
    rest = await claim_all(workers[0])
    ids = [*rest, *(job_id for claim in claims for job_id in claim.result())]
    assert len(ids) == len(set(ids)) == 200
