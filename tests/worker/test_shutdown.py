"""Stopping: within the deadline, with every outcome written, and without costing a job an attempt."""

import asyncio
import contextlib
import threading
import time
from datetime import timedelta

import asyncpg
import pytest

from pqlite import JobContext, JobStatus, PgJobStore, Worker
from pqlite.events import JobStarted, WorkerStopped, WorkerStopping
from tests.support import EventLog, ended, until
from tests.worker.conftest import Run


async def test_an_idle_worker_stops_at_once_and_leaves_no_row(run: Run, conn: asyncpg.Connection) -> None:
    async with run({"t": lambda _ctx: None}):
        began = time.monotonic()

    assert time.monotonic() - began < 2.0
    assert await conn.fetchval("select count(*) from pqlite.workers") == 0


async def test_a_running_job_may_finish_within_the_grace(run: Run, store: PgJobStore, log: EventLog) -> None:
    finish = asyncio.Event()

    async def handler(_ctx: JobContext) -> str:
        await finish.wait()
        return "finished"

    async with run({"t": handler}, shutdown_grace=20, shutdown_timeout=25) as worker:
        job_id = await store.enqueue("t")
        await log.wait_for(JobStarted)
        worker.begin_shutdown()
        await log.wait_for(WorkerStopping)
        finish.set()

    job = await store.get(job_id)
    assert (job.status, job.result) == (JobStatus.DONE, "finished")


async def test_what_waits_in_memory_for_a_slot_does_not_start_within_the_grace(
    run: Run, store: PgJobStore, log: EventLog
) -> None:
    finish = asyncio.Event()

    async def handler(_ctx: JobContext) -> None:
        await finish.wait()

    async with run({"t": handler}, concurrency=1, shutdown_grace=20, shutdown_timeout=25) as worker:
        executor = worker._running._parts.executor  # type: ignore[union-attr]
        runs = await store.enqueue("t")
        await log.wait_for(JobStarted)
        executor.prefetch = lambda _round_trip: 1  # type: ignore[method-assign]
        waits = await store.enqueue("t")
        await until(lambda: len(executor.waiting) == 1, "the second job to wait")
        worker.begin_shutdown()
        await log.wait_for(WorkerStopping)
        finish.set()

    assert (await store.get(runs)).status is JobStatus.DONE
    job = await store.get(waits)
    assert (job.status, job.attempts, len(log.of(JobStarted))) == (JobStatus.READY, 0, 1)


async def test_a_worker_that_was_left_hears_of_no_job_any_more(run: Run, store: PgJobStore) -> None:
    async with run({"t": lambda _ctx: None}) as worker:
        listening = worker._running._parts.claimer._wakeups  # type: ignore[union-attr]
        await ended(store, await store.enqueue("t"))

    listening.take()
    await store.enqueue("t")
    assert not listening.take()


async def test_a_job_interrupted_by_shutdown_is_ready_again_and_keeps_its_attempt(
    run: Run, store: PgJobStore, log: EventLog
) -> None:
    reasons = []

    async def handler(ctx: JobContext) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            reasons.append(ctx.stop_requested)

    async with run({"t": handler}, shutdown_grace=0):
        job_id = await store.enqueue("t")
        before = await store.get(job_id)
        await log.wait_for(JobStarted)

    job = await store.get(job_id)
    assert reasons == ["shutdown"]
    assert (job.status, job.attempts, job.crashes, job.locked_by) == (JobStatus.READY, 0, 0, None)
    assert job.run_after == before.run_after


async def test_a_handler_that_fails_on_being_stopped_keeps_its_attempt(
    run: Run, store: PgJobStore, log: EventLog
) -> None:
    async def handler(_ctx: JobContext) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("stumbled on the way out")

    async with run({"t": handler}, shutdown_grace=0):
        job_id = await store.enqueue("t")
        await log.wait_for(JobStarted)

    job = await store.get(job_id)
    assert (job.status, job.attempts) == (JobStatus.READY, 0)


async def test_a_stubborn_handler_does_not_keep_the_worker_beyond_its_timeout(
    run: Run, store: PgJobStore, log: EventLog, conn: asyncpg.Connection
) -> None:
    let_go = threading.Event()

    def handler(_ctx: JobContext) -> None:
        let_go.wait(30)

    async with run({"t": handler}, shutdown_grace=0.1, shutdown_timeout=2):
        job_id = await store.enqueue("t")
        await log.wait_for(JobStarted)
        began = time.monotonic()
    took = time.monotonic() - began
    worker = await conn.fetchrow("select id, dead_at from pqlite.workers")
    job = await store.get(job_id)
    let_go.set()

    assert took < 3.0
    assert log.of(WorkerStopped)[0].left == 1
    # The row stays, marked dead, so that any reaper gives the job back at once.
    assert worker is not None
    assert worker["dead_at"] is not None
    assert (job.status, job.locked_by) == (JobStatus.RUNNING, worker["id"])


async def test_begin_shutdown_stops_claiming_while_the_app_goes_on(run: Run, store: PgJobStore, log: EventLog) -> None:
    async with run({"t": lambda _ctx: None}) as worker:
        worker.begin_shutdown()
        await log.wait_for(WorkerStopped)
        job_id = await store.enqueue("t")
        assert worker.stopping
        assert not worker.healthy()

    assert (await store.get(job_id)).status is JobStatus.READY


async def test_a_cancelled_exit_still_gives_the_jobs_back(run: Run, store: PgJobStore, log: EventLog) -> None:
    async def handler(_ctx: JobContext) -> None:
        await asyncio.sleep(60)

    async def app() -> None:
        async with run({"t": handler}, shutdown_grace=20):
            await store.enqueue("t")
            await asyncio.sleep(60)

    task = asyncio.create_task(app())
    started = await log.wait_for(JobStarted)
    task.cancel()  # the body
    await log.wait_for(WorkerStopping)
    task.cancel()  # ... and the exit, while it grants the grace
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task

    job = await store.get(started.job.id)
    assert time.monotonic() - began < 5.0
    assert (job.status, job.attempts) == (JobStatus.READY, 0)


async def test_an_event_loop_that_is_torn_down_gives_the_jobs_back(dsn: str) -> None:
    store = PgJobStore(dsn=dsn)
    log = EventLog()

    async def handler(_ctx: JobContext) -> None:
        await asyncio.sleep(60)

    async def app() -> int:
        worker = Worker(store=store, handlers={"t": handler}, observers=[log])
        await worker.__aenter__()  # and never left, as when a server exits by force
        job_id = await store.enqueue("t")
        await log.wait_for(JobStarted)
        return job_id

    job_id = await asyncio.to_thread(lambda: asyncio.run(app()))

    async with PgJobStore(dsn=dsn) as fresh:
        job = await fresh.get(job_id)
    assert (job.status, job.attempts) == (JobStatus.READY, 0)


async def test_outcomes_are_written_although_the_database_answers_late(
    run: Run, store: PgJobStore, log: EventLog, conn: asyncpg.Connection
) -> None:
    async with run({"t": lambda _ctx: "done"}, shutdown_timeout=10) as worker:
        async with conn.transaction():
            job_id = await store.enqueue("t", run_after=timedelta(seconds=0.2))
            await conn.execute("lock table pqlite.jobs in share mode")  # claims wait
            worker.begin_shutdown()
            await log.wait_for(WorkerStopping)
        await log.wait_for(WorkerStopped)

    job = await store.get(job_id)
    assert job.status in (JobStatus.READY, JobStatus.DONE)
    assert job.locked_by is None
    assert await conn.fetchval("select count(*) from pqlite.workers") == 0


async def test_everything_claimed_while_stopping_is_given_back_uncharged(run: Run, store: PgJobStore) -> None:
    async def handler(_ctx: JobContext) -> None:
        await asyncio.sleep(0.01)

    await store.enqueue_many([{"job_type": "t"} for _ in range(300)])
    for _ in range(5):
        async with run({"t": handler}, concurrency=50, shutdown_grace=0):
            await until(lambda: _done(store, 1))

    async with store.connection() as conn:
        left = await conn.fetch("select status, attempts from pqlite.jobs where status <> 'DONE'")
    assert all(tuple(row) == ("READY", 0) for row in left)


async def _done(store: PgJobStore, count: int) -> bool:
    async with store.connection() as conn:
        return bool(await conn.fetchval("select count(*) >= $1 from pqlite.jobs where status = 'DONE'", count))


async def test_a_stop_asked_for_before_the_start_is_not_forgotten(store: PgJobStore) -> None:
    worker = Worker(store=store, handlers={"t": lambda _ctx: None})
    job_id = await store.enqueue("t")
    worker.begin_shutdown()
    await asyncio.wait_for(worker.run(), 5)
    stopped_early = (await store.get(job_id)).status
    async with worker:
        await until(lambda: _done(store, 1))

    assert stopped_early is JobStatus.READY


async def test_a_job_that_may_start_only_once_fails_when_a_stop_interrupts_it(
    run: Run, store: PgJobStore, log: EventLog
) -> None:
    starts = 0

    async def handler(_ctx: JobContext) -> None:
        nonlocal starts
        starts += 1
        await asyncio.sleep(60)

    async with run({"t": handler}, shutdown_grace=0):
        job_id = await store.enqueue("t", max_attempts=1)
        await log.wait_for(JobStarted)
    async with run({"t": handler, "other": lambda _ctx: None}):
        await ended(store, await store.enqueue("other"))

    job = await store.get(job_id)
    assert (job.status, job.attempts, starts) == (JobStatus.FAILED, 1, 1)
    assert "at most once" in (job.last_error or "")


async def test_a_pruner_that_hangs_does_not_hold_the_stop(
    run: Run, store: PgJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruning = asyncio.Event()

    async def hangs(*_: object) -> tuple[None, int]:
        pruning.set()
        while True:  # as a pool does that shields its release
            with contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()
                return None, 0

    let_go = asyncio.Event()
    monkeypatch.setattr(store, "prune_chunk", hangs)
    async with run({"t": lambda _ctx: None}):
        await pruning.wait()
        began = time.monotonic()
    took = time.monotonic() - began
    let_go.set()

    assert took < 3.0
