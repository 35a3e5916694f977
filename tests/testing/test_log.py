import asyncio
import threading

import pytest

from pqlite.events import JobStarted, WorkerRegistered, WorkerStopping
from pqlite.testing import EventLog


async def test_an_event_of_the_past_is_found_at_once_and_one_of_the_future_waited_for() -> None:
    log = EventLog()
    log(WorkerRegistered("w", "w-1"))

    assert (await log.wait_for(WorkerRegistered)).holder == "w-1"
    waiting = asyncio.create_task(log.wait_for(WorkerRegistered, lambda event: event.holder != "w-2", count=2))
    await asyncio.sleep(0)
    for number in (2, 3):
        log(WorkerRegistered("w", f"w-{number}"))

    assert (await waiting).holder == "w-3"
    assert [event.holder for event in log.of(WorkerRegistered)] == ["w-1", "w-2", "w-3"]
    assert log.of(JobStarted) == []


async def test_an_event_that_does_not_come_is_missed_in_a_sentence() -> None:
    log = EventLog()
    for running in (1, 2):
        log(WorkerStopping("w", running))

    with pytest.raises(TimeoutError, match=r"1 of 2 matching WorkerStopping came within 0\.05 s; all that came: 2 Wo"):
        await log.wait_for(WorkerStopping, lambda event: event.running == 1, count=2, timeout=0.05)
    with pytest.raises(TimeoutError, match="all that came: none"):
        await EventLog().wait_for(JobStarted, timeout=0)


async def test_an_event_of_a_worker_in_another_thread_is_heard() -> None:
    log = EventLog()
    waiting = asyncio.create_task(log.wait_for(WorkerRegistered))
    await asyncio.sleep(0)

    threading.Thread(target=log, args=(WorkerRegistered("w", "w-1"),)).start()

    assert (await waiting).holder == "w-1"
