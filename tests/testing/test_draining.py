import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from pqlite import (
    BackoffPolicy,
    Cancel,
    ConfigurationError,
    Fail,
    JobContext,
    JobStatus,
    NotStarted,
    PgJobStore,
    Snooze,
)
from pqlite.events import JobStarted
from pqlite.testing import AttemptFailed, EventLog, drain
from pqlite.testing import draining as drains
from tests.conformance.conftest import Store
from tests.conformance.scene import Scene


class AtOnce(BackoffPolicy):
    def retry_delay(self, attempts: int) -> float:
        return 0.0


async def echo(ctx: JobContext) -> Any:
    return ctx.job.payload


async def failing(ctx: JobContext) -> None:
    raise ZeroDivisionError(f"attempt {ctx.attempt}")


async def test_a_drain_runs_what_is_due_best_first_and_returns_the_jobs_as_they_are_then(store: Store) -> None:
    await store.enqueue("t", 1)
    await store.enqueue("t", 2, priority=5)
    await store.enqueue("u", 3, queue="other")
    later = await store.enqueue("t", 4, run_after=timedelta(hours=1))
    unknown = await store.enqueue("unknown")

    jobs = await drain(store, {"t": echo, "u": echo})

    assert [(job.status, job.result) for job in jobs] == [(JobStatus.DONE, n) for n in (2, 1, 3)]
    assert {(await store.get(job_id)).status for job_id in (later, unknown)} == {JobStatus.READY}
    assert await drain(store, {"t": echo}) == []


async def test_a_drain_runs_what_its_jobs_enqueue_after_them(store: Store) -> None:
    async def first(ctx: JobContext) -> str:
        await ctx.store.enqueue("second", priority=9)
        async with ctx.complete(result="first") as conn:
            await ctx.store.enqueue("second", conn=conn)
        return "ignored"

    await store.enqueue("first")

    jobs = await drain(store, {"first": first, "second": echo})

    assert [(job.job_type, job.status) for job in jobs] == [
        ("first", JobStatus.DONE),
        ("second", JobStatus.DONE),
        ("second", JobStatus.DONE),
    ]
    assert jobs[0].result == "first"


async def test_an_attempt_that_fails_raises_its_traceback_after_it_was_written(store: Store) -> None:
    job_id = await store.enqueue("t")

    with pytest.raises(AttemptFailed, match="ZeroDivisionError: attempt 1") as caught:
        await drain(store, {"t": failing})

    assert caught.value.outcome.job.id == job_id
    job = await store.get(job_id)
    assert (job.status, job.attempts, job.locked_by) == (JobStatus.READY, 1, None)


async def test_attempts_that_fail_are_retried_as_far_as_they_are_due_if_that_is_what_is_tested(
    store: Store, scene: Scene
) -> None:
    await store.enqueue("t", max_attempts=3)

    [job] = await drain(store, {"t": failing}, raises=False)
    assert (job.status, job.attempts) == (JobStatus.READY, 1)
    assert await drain(store, {"t": failing}, raises=False) == []
    await scene.pass_time(timedelta(minutes=1))
    jobs = await drain(store, {"t": failing}, raises=False, backoff=AtOnce())

    assert [(job.status, job.attempts) for job in jobs] == [(JobStatus.READY, 2), (JobStatus.FAILED, 3)]


@pytest.mark.parametrize(("error", "status"), [(Snooze(60), JobStatus.READY), (Cancel("no need"), JobStatus.CANCELLED)])
async def test_a_snooze_or_a_cancel_is_no_failure(store: Store, error: Exception, status: JobStatus) -> None:
    async def handler(ctx: JobContext) -> None:
        raise error

    await store.enqueue("t")

    [job] = await drain(store, {"t": handler})

    assert job.status is status


async def test_a_fail_is_a_failure(store: Store) -> None:
    def handler(ctx: JobContext) -> None:
        raise Fail("the card was deleted")

    await store.enqueue("t")

    with pytest.raises(AttemptFailed, match="the card was deleted"):
        await drain(store, {"t": handler})


async def test_a_job_that_enqueues_itself_for_ever_is_an_error_and_not_a_hanging_test(store: Store) -> None:
    async def handler(ctx: JobContext) -> None:
        await ctx.store.enqueue("t")

    await store.enqueue("t")

    with pytest.raises(AssertionError, match="20 attempts were made and a job of type 't' is still due"):
        await drain(store, {"t": handler}, max_jobs=20)

    left = await store.pickup("me")
    assert left is not None
    assert left.attempts == 1


async def test_a_drain_of_letters_instead_of_queues_is_refused(store: Store) -> None:
    with pytest.raises(ConfigurationError, match="queues"):
        await drain(store, {"t": echo}, queues="mail")


async def test_a_drain_can_be_narrowed_to_queues_and_heard(store: Store) -> None:
    log = EventLog()
    await store.enqueue("t", queue="a")
    await store.enqueue("t", queue="b")

    jobs = await drain(store, {"t": echo}, queues=["b"], observers=[log])

    assert [job.queue for job in jobs] == ["b"]
    assert [event.job.queue for event in log.of(JobStarted)] == ["b"]


async def test_a_job_that_an_open_transaction_keeps_from_being_settled_is_an_error_and_not_a_hanging_test(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drains, "BUSY_SECONDS", 0.05)
    async with store.transaction() as tx:

        async def handler(ctx: JobContext) -> None:
            await ctx.store.cancel(ctx.job.id, conn=tx)

        await store.enqueue("t")
        with pytest.raises(AssertionError, match="a transaction that is still open holds its row"):
            await drain(store, {"t": handler})


async def test_a_drain_that_is_cancelled_ends_even_if_its_handler_does_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drains, "STOP_SECONDS", 0.05)
    log, over = EventLog(), threading.Event()

    def handler(ctx: JobContext) -> None:
        over.wait()

    await store.enqueue("t")
    draining = asyncio.create_task(drain(store, {"t": handler}, observers=[log]))
    await log.wait_for(JobStarted)
    draining.cancel()
    try:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(draining), 30)
    finally:
        over.set()


async def test_a_drain_of_a_store_that_is_not_started_says_so_before_anything_runs(fresh_store: Store) -> None:
    async with fresh_store:
        await fresh_store.enqueue("t")

    with pytest.raises(NotStarted, match="The store is not started"):
        await drain(fresh_store, {"t": failing})


async def test_a_drain_that_is_cancelled_gives_its_job_back_and_leaves_nobody_registered(store: Store) -> None:
    log = EventLog()

    async def handler(ctx: JobContext) -> None:
        await asyncio.Event().wait()

    job_id = await store.enqueue("t")
    draining = asyncio.create_task(drain(store, {"t": handler}, observers=[log]))
    await log.wait_for(JobStarted)
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining

    job = await store.get(job_id)
    assert (job.status, job.attempts) == (JobStatus.READY, 0)
    if isinstance(store, PgJobStore):
        engine = store.engine("test")
        assert await engine.next_death("nobody") is None
        await engine.link.close()
