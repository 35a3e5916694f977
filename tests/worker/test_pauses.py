"""Pauses while a worker runs."""

from __future__ import annotations

import asyncio

from pqlite import JobContext, JobStatus, PgJobStore
from pqlite.events import JobSettled, JobStarted
from pqlite.outcome import Verb
from tests.support import EventLog, until
from tests.worker.conftest import Run


async def test_a_worker_starts_nothing_that_is_paused_and_goes_on_when_it_is_resumed(
    store: PgJobStore, log: EventLog, run: Run
) -> None:
    async with run({"t": lambda _: None, "other": lambda _: None}):
        await store.pause(queue="q")
        paused = await store.enqueue("t", queue="q")
        await store.wait_for(await store.enqueue("other"))
        await store.wait_for(await store.enqueue("other"))
        assert (await store.get(paused)).status is JobStatus.READY

        await store.resume(queue="q")

        await store.wait_for(paused, timeout=5)
    assert [event.job.id for event in log.events if isinstance(event, JobStarted)][-1] == paused


async def test_prefetched_jobs_are_given_back_when_their_type_is_paused(
    store: PgJobStore, log: EventLog, run: Run
) -> None:
    go_on = asyncio.Event()
    started = []

    async def handler(ctx: JobContext) -> None:
        started.append(ctx.job.id)
        if len(started) > 200:
            await go_on.wait()

    await store.enqueue_many([{"job_type": "t"}] * 1000)
    async with run({"t": handler}, concurrency=4) as worker:
        executor = worker._running._parts.executor  # type: ignore[union-attr]
        await until(lambda: len(started) > 200 and len(executor.running) == 4 and executor.waiting)
        await store.pause(job_type="t")
        await log.wait_for(JobSettled, lambda event: event.outcome.verb is Verb.RELEASED)
        await until(lambda: not executor.waiting)
        go_on.set()
        await until(lambda: not executor.running)

        ran = len(started)
        assert ran < 1000
        assert len(started) == ran
        await store.resume(job_type="t")
        await until(lambda: len(started) == 1000)
