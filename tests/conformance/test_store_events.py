"""What a store announces of what is done through it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pqlite import InvalidJob, JobNotFound, JobStatus, NewJob
from pqlite.events import CancelRequested, EnqueuedJob, Event, JobsEnqueued, RetryRequested, StoreEvent
from pqlite.testing import EventLog
from tests.conformance.conftest import Store
from tests.conformance.scene import Holder


@pytest.fixture
def log() -> EventLog:
    return EventLog()


@pytest.fixture
async def store(make_store: Callable[..., Store], log: EventLog) -> AsyncIterator[Store]:
    async with make_store(observers=[log]) as observed:
        yield observed


async def test_an_observer_hears_what_was_enqueued_and_whether_it_was_new(store: Store, log: EventLog) -> None:
    one = await store.enqueue("a", queue="q")
    keyed = await store.enqueue("b", dedupe_key="k")
    again = await store.enqueue("b", dedupe_key="k")
    await store.close()

    assert log.events == [
        JobsEnqueued([EnqueuedJob(one, "a", "q", True)], committed=True),
        JobsEnqueued([EnqueuedJob(keyed, "b", "default", True)], committed=True),
        JobsEnqueued([EnqueuedJob(again, "b", "default", False)], committed=True),
    ]
    assert again == keyed


@pytest.mark.parametrize("count", [3, 2500])
async def test_the_jobs_of_a_batch_are_one_event_in_their_order(store: Store, log: EventLog, count: int) -> None:
    async def drawn() -> AsyncIterator[Any]:
        yield {"job_type": "later", "dedupe_key": "x"}

    jobs = [NewJob(job_type=f"t{n % 7}", queue=f"q{n % 3}", dedupe_key="x" if n == 1 else None) for n in range(count)]
    verdicts = await store.enqueue_many(jobs)
    [late] = await store.enqueue_many(drawn())
    assert await store.enqueue_many([]) == []
    await store.close()

    assert log.events == [
        JobsEnqueued(
            [
                EnqueuedJob(verdict.id, job.job_type, job.queue, True)
                for verdict, job in zip(verdicts, jobs, strict=True)
            ],
            committed=True,
        ),
        JobsEnqueued([EnqueuedJob(verdicts[1].id, "later", "default", False)], committed=True),
    ]
    assert late == (verdicts[1].id, False)


async def test_what_a_transaction_of_the_callers_decides_is_not_called_committed(store: Store, log: EventLog) -> None:
    there = await store.enqueue("t")
    async with store.transaction() as tx:
        await store.enqueue("t", conn=tx)
        await store.enqueue_many([{"job_type": "t"}], conn=tx)
        await store.cancel(there, conn=tx)
        assert [event.committed for event in await heard(log, JobsEnqueued, 3)] == [True, False, False]
        [cancelled] = await heard(log, CancelRequested, 1)

    assert cancelled == CancelRequested(there, JobStatus.CANCELLED, committed=False)


async def test_who_cancels_and_retries_is_heard_and_what_came_of_it(
    store: Store, log: EventLog, holder: Holder
) -> None:
    running, waiting = await store.enqueue("t"), await store.enqueue("u")
    assert [job.id for job in await holder.claim(1)] == [running]
    await store.cancel(running)
    await store.retry(running)
    await store.cancel(waiting)
    await store.cancel(waiting)
    await store.retry(waiting)
    await store.close()

    assert [event for event in log.events if not isinstance(event, JobsEnqueued)] == [
        CancelRequested(running, JobStatus.RUNNING, committed=True),
        RetryRequested(running, JobStatus.RUNNING),
        CancelRequested(waiting, JobStatus.CANCELLED, committed=True),
        CancelRequested(waiting, JobStatus.CANCELLED, committed=True),
        RetryRequested(waiting, JobStatus.READY),
    ]
    assert all(isinstance(event, StoreEvent) for event in log.events)


async def test_what_did_not_happen_is_not_heard(store: Store, log: EventLog) -> None:
    with pytest.raises(InvalidJob):
        await store.enqueue("")
    with pytest.raises(InvalidJob, match="job 1"):
        await store.enqueue_many([{"job_type": "t"}, {"type": "t"}])
    for act in (store.cancel, store.retry):
        with pytest.raises(JobNotFound):
            await act(4711)
    await store.close()

    assert log.events == []


async def test_an_observer_hears_a_job_as_the_middleware_has_changed_it(
    make_store: Callable[..., Store], log: EventLog
) -> None:
    def elsewhere(job: NewJob) -> NewJob:
        return job.with_options(queue="elsewhere")

    async with make_store(middleware=[elsewhere], observers=[log]) as store:
        await store.enqueue("t")
        await store.enqueue_many([{"job_type": "t"}])

    assert [event.jobs[0].queue for event in log.of(JobsEnqueued)] == ["elsewhere", "elsewhere"]


async def test_an_observer_that_hangs_or_raises_delays_no_enqueue(make_store: Callable[..., Store]) -> None:
    may_go_on, never = threading.Event(), asyncio.Event()

    def stuck(event: Event) -> None:
        may_go_on.wait(10)

    async def stuck_too(event: Event) -> None:
        await never.wait()

    def failing(event: Event) -> None:
        raise SystemExit

    try:
        async with make_store(observers=[stuck, stuck_too, failing]) as store:
            ids = [await store.enqueue("t") for _ in range(20)]
            assert (await store.get(ids[-1])).status is JobStatus.READY
    finally:
        may_go_on.set()


async def test_one_may_subscribe_to_a_store_later_and_leave(store: Store, log: EventLog) -> None:
    late = EventLog()
    await store.enqueue("t")
    store.events.subscribe(late)
    job_id = await store.enqueue("t")
    store.events.unsubscribe(late)
    await store.enqueue("t")

    assert (await late.wait_for(JobsEnqueued)).jobs[0].id == job_id
    await log.wait_for(JobsEnqueued, count=3)
    assert len(late.events) == 1


async def heard(log: EventLog, kind: type[Any], count: int) -> list[Any]:
    await log.wait_for(kind, count=count)
    return log.of(kind)
