"""Who listens to a worker: what is heard, and that nobody can hold it up by listening."""

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from asyncpg import UndefinedFunctionError
from fastapi import FastAPI

from pqlite import JobContext, JobStatus, PgJobStore, Worker
from pqlite.events import (
    Event,
    JobEnded,
    JobsClaimed,
    JobSettled,
    JobStarted,
    JobStopping,
    WorkerEvent,
    WorkerRegistered,
    WorkerStopped,
    WorkerStopping,
)
from pqlite.testing import MemoryJobStore, drain
from tests.support import EventLog, ended
from tests.worker.conftest import Run


def nothing(ctx: JobContext) -> None:
    """Succeed."""


async def forever(ctx: JobContext) -> None:
    await asyncio.sleep(3600)


@pytest.fixture
def may_go_on() -> Iterator[threading.Event]:
    """What observers of a test's own wait for in their threads."""
    event = threading.Event()
    yield event
    event.set()


async def test_an_observer_hears_the_whole_life_of_a_job_and_of_its_worker(store: PgJobStore, log: EventLog) -> None:
    asynchronous: list[Event] = []

    async def remember(event: Event) -> None:
        await asyncio.sleep(0)
        asynchronous.append(event)

    async with Worker(store, {"t": nothing}, worker_id="w", observers=[log, remember]):
        job_id = await store.enqueue("t")
        await ended(store, job_id)

    expected = [WorkerRegistered, JobsClaimed, JobStarted, JobEnded, JobSettled, WorkerStopping, WorkerStopped]
    for events in (log.events, asynchronous):
        assert [type(event) for event in events] == expected
        assert {event.worker_id for event in events if isinstance(event, WorkerEvent)} == {"w"}
    assert [job.id for job in log.of(JobsClaimed)[0].jobs] == [job_id]


async def test_an_attempt_that_is_asked_to_stop_is_heard_with_the_reason(
    run: Run, store: PgJobStore, log: EventLog
) -> None:
    async with run({"t": forever}, shutdown_grace=0):
        slow = await store.enqueue("t", timeout_seconds=0.05, max_attempts=1)
        await ended(store, slow)
        unwanted = await store.enqueue("t")
        await log.wait_for(JobStarted, count=2)
        await store.cancel(unwanted)
        await ended(store, unwanted)
        late = await store.enqueue("t")
        await log.wait_for(JobStarted, count=3)

    assert [(event.job.id, event.reason) for event in log.of(JobStopping)] == [
        (slow, "timeout"),
        (unwanted, "cancel"),
        (late, "shutdown"),
    ]


async def test_observers_that_hang_hold_up_no_job_no_claim_and_no_stop(
    store: PgJobStore, log: EventLog, may_go_on: threading.Event
) -> None:
    def stuck(event: Event) -> None:
        may_go_on.wait(60)

    async def stuck_too(event: Event) -> None:
        await asyncio.sleep(3600)

    async with Worker(store, {"t": nothing}, concurrency=3, observers=[stuck, stuck_too, log]) as worker:
        verdicts = await store.enqueue_many([{"job_type": "t"}] * 50)
        await log.wait_for(JobSettled, count=50)
        assert worker.healthy()
        began = time.monotonic()

    assert time.monotonic() - began < 5.0
    assert [(await store.get(verdict.id)).status for verdict in verdicts] == [JobStatus.DONE] * 50
    assert log.of(WorkerStopped)[0].left == 0


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, asyncio.CancelledError])
async def test_whatever_observers_raise_changes_nothing(
    store: PgJobStore, log: EventLog, error: type[BaseException]
) -> None:
    def failing(event: Event) -> None:
        raise error

    async def failing_too(event: Event) -> None:
        raise error

    async with Worker(store, {"t": nothing}, observers=[failing, failing_too, log]):
        job = await ended(store, await store.enqueue("t"))

    assert job.status is JobStatus.DONE
    assert len(log.of(WorkerStopped)) == 1


async def test_a_stop_waits_for_observers_that_are_a_little_slow(store: PgJobStore) -> None:
    heard: list[Event] = []
    asynchronous: list[Event] = []

    def slow(event: Event) -> None:
        time.sleep(0.02)
        heard.append(event)

    async def slow_too(event: Event) -> None:
        await asyncio.sleep(0.02)
        asynchronous.append(event)

    async with Worker(store, {"t": nothing}, observers=[slow, slow_too]):
        await ended(store, await store.enqueue("t"))

    assert isinstance(heard[-1], WorkerStopped)
    assert isinstance(asynchronous[-1], WorkerStopped)


async def test_a_stopped_worker_leaves_no_thread_and_no_task_behind(run: Run, store: PgJobStore) -> None:
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()

    async def remember(event: Event) -> None:
        """Forget it."""

    async with run({"t": nothing}) as worker:
        worker.events.subscribe(remember)
        await ended(store, await store.enqueue("t"))

    named = {thread.name for thread in set(threading.enumerate()) - threads}
    assert not {name for name in named if name.startswith("pqlite")}
    assert not {task for task in asyncio.all_tasks() - tasks if task.get_name().startswith("pqlite")}


async def test_everything_is_heard_when_a_single_pass_returns(store: PgJobStore, log: EventLog) -> None:
    await store.enqueue_many([{"job_type": "t"}] * 20)

    attempts = await Worker(store, {"t": nothing}, observers=[log]).run_once()

    assert attempts == len(log.of(JobStarted)) == len(log.of(JobSettled)) == 20
    assert isinstance(log.events[-1], WorkerStopped)


async def test_everything_is_heard_when_a_drain_returns(log: EventLog) -> None:
    async with MemoryJobStore() as store:
        await store.enqueue_many([{"job_type": "t"}] * 20)
        await drain(store, {"t": nothing}, observers=[log])

    assert [type(event) for event in log.events] == [JobStarted, JobEnded, JobSettled] * 20


async def test_everything_is_heard_when_a_drain_cannot_say_goodbye(store: PgJobStore) -> None:
    heard: list[Event] = []

    def slow(event: Event) -> None:
        time.sleep(0.05)
        heard.append(event)

    async def destroy(ctx: JobContext) -> None:
        async with store.connection() as conn:
            await conn.execute("drop function pqlite.unregister")

    await store.enqueue("t")
    with pytest.raises(UndefinedFunctionError):
        await drain(store, {"t": destroy}, observers=[slow])

    assert [type(event) for event in heard] == [JobStarted, JobEnded, JobSettled]


async def test_one_may_subscribe_while_the_worker_runs_and_leave_again(run: Run, store: PgJobStore) -> None:
    late = EventLog()
    async with run({"t": nothing}) as worker:
        await ended(store, await store.enqueue("t"))
        worker.events.subscribe(late)
        job_id = await store.enqueue("t")
        await late.wait_for(JobSettled)
        worker.events.unsubscribe(late)
        await ended(store, await store.enqueue("t"))

    assert {event.job.id for event in late.of(JobStarted)} == {job_id}
    assert late.of(WorkerStopped) == []


async def test_two_workers_of_one_process_are_told_apart(store: PgJobStore, log: EventLog) -> None:
    async with (
        Worker(store, {"t": nothing}, worker_id="one", observers=[log]),
        Worker(store, {"t": nothing}, worker_id="two", observers=[log]),
    ):
        await store.enqueue_many([{"job_type": "t", "run_after": timedelta(milliseconds=n)} for n in range(50)])
        await log.wait_for(JobSettled, count=50)

    assert {event.worker_id for event in log.of(WorkerStopped)} == {"one", "two"}
    by_job = {event.job.id: event.worker_id for event in log.of(JobStarted)}
    assert all(by_job[event.outcome.job.id] == event.worker_id for event in log.of(JobEnded))


async def test_a_worker_that_runs_again_in_another_event_loop_is_heard_again(dsn: str, log: EventLog) -> None:
    asynchronous: list[Event] = []

    async def remember(event: Event) -> None:
        await asyncio.sleep(0)
        asynchronous.append(event)

    store = PgJobStore(dsn=dsn)
    worker = Worker(store, {"t": nothing}, observers=[log, remember])

    async def once() -> None:
        async with worker:
            await ended(store, await store.enqueue("t"))

    for _ in range(2):
        await asyncio.to_thread(lambda: asyncio.run(once()))

    assert len(log.of(JobSettled)) == len(log.of(WorkerStopped)) == 2
    assert asynchronous == log.events


@pytest.mark.filterwarnings("ignore:Using `httpx` with")
def test_a_test_client_that_is_closed_has_let_the_observers_hear_everything(pqlite_store: PgJobStore) -> None:
    from starlette.testclient import TestClient  # warns already when it is imported

    log = EventLog()
    store = pqlite_store
    worker = Worker(store, {"t": nothing}, observers=[log])
    app = FastAPI(lifespan=worker.lifespan)

    @app.post("/")
    async def create() -> int:
        return await store.enqueue("t")

    with TestClient(app) as client:
        job_id = client.post("/").json()
        asyncio.run(log.wait_for(JobSettled))

    assert [event.job.id for event in log.of(JobStarted)] == [job_id]
    assert isinstance(log.events[-1], WorkerStopped)


async def test_an_observer_stops_its_worker(store: PgJobStore) -> None:
    async def stop_when_done(event: Event) -> None:
        if isinstance(event, JobSettled):
            worker.begin_shutdown()

    await store.enqueue("t")
    worker: Any = Worker(store, {"t": nothing}, observers=[stop_when_done])

    await asyncio.wait_for(worker.run(), 15)

    assert worker.stopping
