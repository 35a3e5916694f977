"""The real Worker, on either store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from pqlite import BackoffPolicy, Cancel, Fail, Handler, JobContext, JobNotFound, JobStatus, RetryAfter, Snooze, Worker
from pqlite.events import JobEnded, JobSettled, JobsTakenOver, JobStarted, LoopFailed, WorkerFenced, WorkerRegistered
from tests.conformance.conftest import Store
from tests.conformance.scene import RolledBack, Scene, make_suspect
from tests.store.conftest import Register
from tests.store.workers import RegisteredWorker
from tests.support import EventLog, ended, settled, until

pytestmark = pytest.mark.usefixtures("postgres_only")

Run = Callable[..., AbstractAsyncContextManager[Worker]]


class AtOnce(BackoffPolicy):
    def retry_delay(self, attempts: int) -> float:
        return 0.0


@pytest.fixture
def log() -> EventLog:
    return EventLog()


@pytest.fixture
def run(store: Store, log: EventLog) -> Run:
    @asynccontextmanager
    async def running(handlers: dict[str, Handler], **options: Any) -> AsyncIterator[Worker]:
        async with Worker(store=store, handlers=handlers, observers=[log], **options) as worker:
            yield worker

    return running


async def nothing(ctx: JobContext) -> None:
    """Succeed."""


async def test_a_worker_starts_the_store_that_is_not_started_and_closes_it(fresh_store: Store) -> None:
    seen: list[bool] = []

    async def handler(ctx: JobContext) -> None:
        seen.append(fresh_store.started)

    worker = Worker(store=fresh_store, handlers={"t": handler})
    async with worker.lifespan():
        await ended(fresh_store, await fresh_store.enqueue("t"))

    assert seen == [True]
    assert not fresh_store.started


async def test_what_was_waiting_and_what_comes_later_is_run_and_its_result_kept(run: Run, store: Store) -> None:
    async def handler(ctx: JobContext) -> Any:
        return ctx.job.payload

    before = await store.enqueue("t", {"n": 1})
    async with run({"t": handler}):
        after = await store.enqueue("t", {"n": 2})
        jobs = [await ended(store, job_id) for job_id in (before, after)]

    assert [(job.status, job.result, job.attempts) for job in jobs] == [
        (JobStatus.DONE, {"n": 1}, 1),
        (JobStatus.DONE, {"n": 2}, 1),
    ]


async def test_a_plain_function_runs_in_a_thread(run: Run, store: Store) -> None:
    def handler(ctx: JobContext) -> str:
        return threading.current_thread().name

    async with run({"t": handler}):
        job = await ended(store, await store.enqueue("t"))

    assert job.result != threading.current_thread().name


@pytest.mark.parametrize(
    ("error", "status", "attempts", "reason"),
    [
        (ValueError("boom"), JobStatus.READY, 1, "boom"),
        (RetryAfter(60, "later"), JobStatus.READY, 1, "later"),
        (Fail("never"), JobStatus.FAILED, 1, "never"),
        (Cancel("no need"), JobStatus.CANCELLED, 1, "no need"),
        (Snooze(60, "not yet"), JobStatus.READY, 0, "not yet"),
    ],
)
async def test_what_a_handler_raises_says_what_becomes_of_the_job(
    run: Run, store: Store, log: EventLog, error: Exception, status: JobStatus, attempts: int, reason: str
) -> None:
    async def handler(ctx: JobContext) -> None:
        raise error

    async with run({"t": handler}):
        job_id = await store.enqueue("t")
        await log.wait_for(JobSettled)
        job = await store.get(job_id)

    assert (job.status, job.attempts) == (status, attempts)
    assert reason in (job.last_error or "")
    assert len(job.errors) == 1


async def test_an_error_is_retried_until_max_attempts(run: Run, store: Store) -> None:
    async def handler(ctx: JobContext) -> None:
        raise ValueError(f"attempt {ctx.attempt}")

    async with run({"t": handler}, backoff=AtOnce()):
        job = await ended(store, await store.enqueue("t", max_attempts=3))

    assert (job.status, job.attempts, job.claims) == (JobStatus.FAILED, 3, 3)
    assert [error["attempt"] for error in job.errors] == [1, 2, 3]


async def test_a_job_is_not_run_before_it_is_due(run: Run, store: Store, scene: Scene, log: EventLog) -> None:
    async with run({"t": nothing}):
        later = await store.enqueue("t", run_after=timedelta(hours=1))
        await ended(store, await store.enqueue("t"))
        assert (await store.get(later)).status is JobStatus.READY
        await scene.pass_time(timedelta(hours=1))
        assert (await ended(store, later)).status is JobStatus.DONE


async def test_jobs_of_unknown_types_and_other_queues_are_left_alone(run: Run, store: Store) -> None:
    unknown = await store.enqueue("unknown", queue="mine", priority=9)
    elsewhere = await store.enqueue("t", queue="other", priority=9)

    async with run({"t": nothing}, queues=["mine"]):
        await ended(store, await store.enqueue("t", queue="mine"))

    for job_id in (unknown, elsewhere):
        assert (await store.get(job_id)).status is JobStatus.READY


async def test_a_running_job_that_is_cancelled_stops_and_is_cancelled(run: Run, store: Store, log: EventLog) -> None:
    async def handler(ctx: JobContext) -> None:
        await asyncio.Event().wait()

    async with run({"t": handler}):
        job_id = await store.enqueue("t")
        await log.wait_for(JobStarted)
        assert await store.cancel(job_id) is JobStatus.RUNNING
        job = await ended(store, job_id)

    assert (job.status, job.last_error) == (JobStatus.CANCELLED, "cancelled")


async def test_an_attempt_that_takes_too_long_is_an_error(run: Run, store: Store) -> None:
    async def handler(ctx: JobContext) -> None:
        await asyncio.Event().wait()

    async with run({"t": handler}):
        job = await settled(store, await store.enqueue("t", timeout_seconds=0.05))

    assert (job.status, job.attempts) == (JobStatus.READY, 1)
    assert "took longer than timeout_seconds" in (job.last_error or "")


async def test_a_stop_gives_back_what_runs_without_counting_the_attempt(run: Run, store: Store, log: EventLog) -> None:
    async def handler(ctx: JobContext) -> None:
        await asyncio.Event().wait()

    async with run({"t": handler}, shutdown_grace=0):
        job_id = await store.enqueue("t")
        await log.wait_for(JobStarted)

    job = await store.get(job_id)
    assert (job.status, job.attempts, job.claims, job.crashes) == (JobStatus.READY, 0, 1, 0)


async def test_follow_ups_and_done_are_committed_together_or_not_at_all(run: Run, store: Store) -> None:
    async def first(ctx: JobContext) -> None:
        async with ctx.complete(result="done") as conn:
            await ctx.store.enqueue("second", {"attempt": ctx.attempt}, conn=conn)
            if ctx.attempt == 1:
                raise RolledBack

    async def second(ctx: JobContext) -> None:
        seen.append(ctx.job.payload["attempt"])
        over.set()

    seen: list[int] = []
    over = asyncio.Event()
    async with run({"first": first, "second": second}, backoff=AtOnce()):
        job = await ended(store, await store.enqueue("first"))
        await over.wait()

    assert (job.status, job.result, job.attempts) == (JobStatus.DONE, "done", 2)
    assert seen == [2]


async def test_a_worker_hears_of_what_a_transaction_has_enqueued(run: Run, store: Store, log: EventLog) -> None:
    async with run({"t": nothing}):
        await ended(store, await store.enqueue("t"))
        async with store.transaction() as tx:
            job_id = await store.enqueue("t", conn=tx)
        assert (await ended(store, job_id)).status is JobStatus.DONE


async def test_two_workers_run_each_job_once(run: Run, store: Store, log: EventLog) -> None:
    async with run({"t": nothing}), run({"t": nothing}):
        await store.enqueue_many([{"job_type": "t"}] * 200)
        await log.wait_for(JobEnded, count=200)

    started = [event.job.id for event in log.of(JobStarted)]
    assert len(started) == len(set(started)) == 200


async def test_a_job_that_is_not_kept_is_gone_when_it_is_done(run: Run, store: Store, log: EventLog) -> None:
    async with run({"t": nothing}, retain_done=timedelta(0)):
        job_id = await store.enqueue("t")
        await log.wait_for(JobSettled)

        with pytest.raises(JobNotFound):
            await store.get(job_id)


async def test_a_suspect_is_run_beside_nothing_that_waits_in_memory(run: Run, store: Store, register: Register) -> None:
    suspect = await store.enqueue("t")
    await make_suspect(register)
    async with run({"t": nothing}):
        job = await ended(store, suspect)

    assert (job.status, job.attempts, job.crashes) == (JobStatus.DONE, 2, 1)


async def test_what_a_worker_left_when_it_was_declared_dead_is_taken_over(
    run: Run, store: Store, log: EventLog, worker: RegisteredWorker
) -> None:
    job_id = await store.enqueue("t")
    await worker.claim_one()
    await worker.engine.unregister(worker.id)

    async with run({"t": nothing}):
        job = await ended(store, job_id)

    assert (job.status, job.attempts, job.crashes) == (JobStatus.DONE, 2, 1)
    assert [taken.id for event in log.of(JobsTakenOver) for taken in event.jobs] == [job_id]


async def test_a_worker_that_was_declared_dead_stops_what_it_runs_and_registers_anew(
    run: Run, store: Store, log: EventLog, register: Register
) -> None:
    async def handler(ctx: JobContext) -> str:
        if ctx.job.claims == 1:
            await asyncio.Event().wait()
        return "again"

    async with run({"t": handler}):
        job_id = await store.enqueue("t")
        await log.wait_for(JobStarted)
        holder = log.of(WorkerRegistered)[0].holder
        other = await register()
        await other.engine.unregister(holder)  # while it holds a job: it is marked dead
        await log.wait_for(WorkerFenced)
        await other.engine.reap("nobody")
        job = await ended(store, job_id)

    assert len(log.of(WorkerRegistered)) == 2
    assert (job.status, job.result) == (JobStatus.DONE, "again")


async def test_a_worker_hears_from_its_first_moment_and_nothing_of_it_fails(
    run: Run, store: Store, log: EventLog
) -> None:
    async with run({"t": nothing}) as worker:
        await ended(store, await store.enqueue("t"))
        diagnosis = worker.diagnosis()

    assert diagnosis is not None
    assert diagnosis.hears
    assert log.of(LoopFailed) == []


async def test_a_worker_leaves_no_registration_behind(run: Run, store: Store, register: Register) -> None:
    judge = await register()
    async with run({"t": nothing}):
        assert await judge.engine.next_death(judge.id) is not None

    async def gone() -> bool:
        return await judge.engine.next_death(judge.id) is None

    await until(gone)
