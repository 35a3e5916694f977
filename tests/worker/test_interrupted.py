"""What a return means after a handler was asked to stop, or after its timeout."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from pqlite import Handler, JobContext, JobStatus, PgJobStore, Worker
from pqlite.events import JobSettled, JobStarted, JobStopping
from pqlite.outcome import Verb
from tests.support import EventLog
from tests.worker.conftest import Run

INTERRUPTED = {
    "shutdown": (Verb.RELEASED, JobStatus.READY),
    "lease": (Verb.RELEASED, JobStatus.READY),
    "cancel": (Verb.CANCELLED, JobStatus.CANCELLED),
    "timeout": (Verb.RETRY, JobStatus.READY),
}
FINISHED = dict.fromkeys(INTERRUPTED, (Verb.DONE, JobStatus.DONE)) | {"timeout": INTERRUPTED["timeout"]}


def returns_early(ctx: JobContext) -> dict[str, int]:
    steps = 0
    while not ctx.stop_requested:
        steps += 1
        time.sleep(0.002)
    return {"steps": steps}


def raises(ctx: JobContext) -> None:
    while True:
        time.sleep(0.002)
        with suppress(Exception):  # it passes by who handles errors of the work
            ctx.raise_if_stopped()


async def catches_its_cancellation(_ctx: JobContext) -> str:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return "cleaned up"
    raise AssertionError


def finishes_all_the_same(ctx: JobContext) -> str:
    returns_early(ctx)
    ctx.mark_finished()
    return "finished"


async def finishes_although_it_is_cancelled(ctx: JobContext) -> str:
    await catches_its_cancellation(ctx)
    ctx.mark_finished()
    return "finished"


async def stopped(worker: Worker, store: PgJobStore, log: EventLog, reason: str) -> None:
    """Return when the job that runs has been asked to stop, for that reason."""
    job = (await log.wait_for(JobStarted)).job
    if reason == "shutdown":
        worker.begin_shutdown()
    elif reason == "cancel":
        await store.cancel(job.id)
    elif reason == "lease":
        worker._running._parts.executor.cancel_all("lease")  # type: ignore[union-attr]
    assert (await log.wait_for(JobStopping)).reason == reason


@pytest.mark.parametrize("reason", INTERRUPTED)
@pytest.mark.parametrize("handler", [returns_early, raises, catches_its_cancellation])
async def test_a_handler_that_notices_that_it_should_stop_and_returns_is_not_done(
    run: Run, store: PgJobStore, log: EventLog, handler: Handler, reason: str
) -> None:
    async with run({"t": handler}, shutdown_grace=0.0) as worker:
        await store.enqueue("t", timeout_seconds=0.03 if reason == "timeout" else None)
        await stopped(worker, store, log, reason)
        event = await log.wait_for(JobSettled)

    assert (event.outcome.verb, event.status) == INTERRUPTED[reason]
    assert event.outcome.result is None
    assert ("TimeoutError" in (event.outcome.error or "")) == (reason == "timeout")


@pytest.mark.parametrize("reason", FINISHED)
@pytest.mark.parametrize("handler", [finishes_all_the_same, finishes_although_it_is_cancelled])
async def test_a_handler_that_says_that_it_finished_is_done_unless_it_overran_its_timeout(
    run: Run, store: PgJobStore, log: EventLog, handler: Handler, reason: str
) -> None:
    async with run({"t": handler}, shutdown_grace=0.0) as worker:
        await store.enqueue("t", timeout_seconds=0.03 if reason == "timeout" else None)
        await stopped(worker, store, log, reason)
        event = await log.wait_for(JobSettled)

    assert (event.outcome.verb, event.status) == FINISHED[reason]
    assert event.outcome.result == (None if reason == "timeout" else '"finished"')


async def looks_at_the_end(ctx: JobContext, call_next: Callable[[JobContext], Any]) -> Any:
    result = await call_next(ctx)
    assert ctx.stop_requested is not None
    return result


@pytest.mark.parametrize("middleware", [[], [looks_at_the_end]])
@pytest.mark.parametrize("reason", FINISHED)
async def test_a_thread_that_never_looked_has_finished_unless_it_overran_its_timeout(
    run: Run, store: PgJobStore, log: EventLog, reason: str, middleware: list[Any]
) -> None:
    go_on = threading.Event()

    def handler(_ctx: JobContext) -> str:
        assert go_on.wait(20)
        return "finished"

    async with run({"t": handler}, shutdown_grace=0.0, middleware=middleware) as worker:
        await store.enqueue("t", timeout_seconds=0.03 if reason == "timeout" else None)
        await stopped(worker, store, log, reason)
        go_on.set()
        event = await log.wait_for(JobSettled)

    assert (event.outcome.verb, event.status) == FINISHED[reason]


async def test_a_job_that_may_start_once_and_was_interrupted_by_a_deploy_fails(
    run: Run, store: PgJobStore, log: EventLog
) -> None:
    async with run({"t": returns_early}, shutdown_grace=0.0) as worker:
        await store.enqueue("t", max_attempts=1)
        await stopped(worker, store, log, "shutdown")
        event = await log.wait_for(JobSettled)

    assert event.status is JobStatus.FAILED
    assert "at most once" in (event.outcome.error or "")


async def blocks_the_loop(_ctx: JobContext) -> str:
    time.sleep(0.06)
    return "late"


def blocks_a_thread(_ctx: JobContext) -> str:
    time.sleep(0.06)
    return "late"


@pytest.mark.parametrize("handler", [blocks_the_loop, blocks_a_thread, catches_its_cancellation])
async def test_an_attempt_that_overran_its_timeout_is_an_error_however_it_ends(
    run: Run, store: PgJobStore, log: EventLog, handler: Handler
) -> None:
    async with run({"t": handler}):
        job_id = await store.enqueue("t", timeout_seconds=0.03)
        await log.wait_for(JobSettled)
        job = await store.get(job_id)

    assert (job.status, job.attempts, job.result) == (JobStatus.READY, 1, None)
    assert job.last_error == "TimeoutError: the attempt took longer than timeout_seconds (0.03 s)"


async def test_what_was_committed_before_the_timeout_counts(run: Run, store: PgJobStore, log: EventLog) -> None:
    async def handler(ctx: JobContext) -> None:
        async with ctx.complete(result="committed"):
            pass
        time.sleep(0.55)  # past the timeout, without a chance to be cancelled

    async with run({"t": handler}):
        job_id = await store.enqueue("t", timeout_seconds=0.5)
        event = await log.wait_for(JobSettled)
        job = await store.get(job_id)

    assert (event.status, job.status, job.result) == (JobStatus.DONE, JobStatus.DONE, "committed")
