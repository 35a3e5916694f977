"""What ends a wait must do so however it falls: before it, during the look that comes before it, or after it."""

from __future__ import annotations

import asyncio
import gc
from weakref import ref

import pytest

from pqlite import IdlePollPolicy, JobContext, JobStatus, RetryAfter, Snooze, Worker
from pqlite.errors import HandlerSignal
from pqlite.events import JobEnded
from tests.conformance.conftest import Store
from tests.conformance.scene import locked, make_suspect
from tests.store.conftest import Register
from tests.support import EventLog, ended, settled, until

pytestmark = pytest.mark.usefixtures("postgres_only")


class Never(IdlePollPolicy):
    """Sleeps for ever when idle: only a wake-up, or a job that becomes due, ends it."""

    def next_sleep(self, empty_streak: int) -> float:
        return 3600.0


@pytest.mark.parametrize("signal", [RetryAfter(0), RetryAfter(0.1), Snooze(0.1)])
async def test_an_idle_worker_wakes_for_a_retry_that_is_written_after_its_latest_look(
    store: Store, signal: HandlerSignal
) -> None:
    log, armed, end = EventLog(), list[float](), asyncio.Event()

    async def handler(ctx: JobContext) -> None:
        armed.append(claimer._armed_until)
        if ctx.job.claims == 1:
            await end.wait()
            raise signal

    async with Worker(store=store, handlers={"t": handler}, observers=[log], idle_policy=Never()) as worker:
        parts = worker._running._parts  # type: ignore[union-attr]
        claimer = parts.claimer
        parts.scout_loop.stop()  # which finds whatever was missed, but later
        job_id = await store.enqueue("t")
        await until(lambda: armed and claimer._armed_until > armed[0], "the worker to sleep while the attempt runs")
        async with locked(store, job_id):  # so that its outcome must wait
            before = claimer._armed_until
            end.set()
            await log.wait_for(JobEnded)
            await until(lambda: claimer._armed_until > before, "the worker to look, and to sleep again")
        job = await ended(store, job_id)

    assert (job.status, job.claims) == (JobStatus.DONE, 2)


async def test_an_idle_worker_wakes_when_a_suspect_becomes_due_again(store: Store, register: Register) -> None:
    async def handler(ctx: JobContext) -> None:
        if ctx.job.claims == 2:
            raise RetryAfter(0.2)

    job_id = await store.enqueue("t")
    await make_suspect(register)
    async with Worker(store=store, handlers={"t": handler}, idle_policy=Never()):
        job = await ended(store, job_id)

    assert (job.status, job.claims, job.crashes) == (JobStatus.DONE, 3, 1)


async def test_a_suspect_that_is_due_much_later_keeps_nothing_of_a_worker_that_has_stopped(
    store: Store, register: Register
) -> None:
    async def handler(ctx: JobContext) -> None:
        raise RetryAfter(3600)

    job_id = await store.enqueue("t")
    await make_suspect(register)
    async with Worker(store=store, handlers={"t": handler}) as worker:
        parts = ref(worker._running._parts)  # type: ignore[union-attr]
        await settled(store, job_id, attempts=2)
    gc.collect()

    assert parts() is None
