"""The rare moments of those who hear: no thread to be had, a full mailbox, an event loop that ends. No worker."""

import asyncio
import gc
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pqlite.events import Event, EventsMissed, JobsPruned, observers
from pqlite.events.announcer import Announcer
from pqlite.testing import EventLog

HUGE = 1 << 47
"""A stack of so many bytes can be had nowhere."""


def number(n: int) -> JobsPruned:
    return JobsPruned("w", n)


def shown(events: list[Event]) -> list[Any]:
    return [
        f"{e.count} missed" if isinstance(e, EventsMissed) else e.deleted
        for e in events
        if isinstance(e, EventsMissed | JobsPruned)
    ]


class Still(observers.Mailbox):
    """A mailbox that hears when it is told to."""

    def hear(self, count: int) -> list[Any]:
        return shown([self._waiting.popleft() for _ in range(count)])

    def _start(self) -> None:
        """Leave it to `hear`."""


class Gate:
    """A plain observer that waits, in its first call, until it is let go."""

    def __init__(self) -> None:
        self.log = EventLog()
        self.entered, self.may_go_on = threading.Event(), threading.Event()
        self.threads: list[threading.Thread] = []

    def __call__(self, event: Event) -> None:
        self.threads.append(threading.current_thread())
        self.entered.set()
        assert self.may_go_on.wait(10)
        self.log(event)


@pytest.fixture
def gate() -> Iterator[Gate]:
    observer = Gate()
    yield observer
    observer.may_go_on.set()


@pytest.fixture
def forgetful(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A filter of the user's that fails on every record."""

    def fails(record: logging.LogRecord) -> bool:
        raise RuntimeError("a filter with a bug")

    observers.logger.addFilter(fails)
    yield
    observers.logger.removeFilter(fails)


def test_a_mailbox_that_holds_one_more_than_its_limit_counts_what_it_misses_exactly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(observers, "REPORT_SECONDS", 0.0)
    box = Still(lambda _event: None, limit=10)
    box.put([number(n) for n in range(11)])
    assert box.hear(5) == [0, 1, 2, 3, 4]
    box.put([number(n) for n in range(11, 16)])
    box.put([number(16), number(17)])
    assert box.hear(11) == [5, 6, 7, 8, 9, "1 missed", 11, 12, 13, 14, 15]
    box.put([number(18)])

    assert box.hear(2) == ["2 missed", 18]
    assert [record.getMessage().rpartition("slow: ")[2].split()[0] for record in caplog.records] == ["1", "3"]


async def test_one_who_leaves_is_told_at_once_what_he_has_missed(gate: Gate) -> None:
    announce = Announcer([gate], limit=1)
    announce(number(0))
    await asyncio.sleep(0)
    assert gate.entered.wait(10)
    for n in range(1, 4):
        announce(number(n))
    announce.unsubscribe(gate)
    gate.may_go_on.set()

    await gate.log.wait_for(EventsMissed)

    assert shown(gate.log.events) == [0, 1, "2 missed"]
    await asyncio.to_thread(gate.threads[0].join, observers.IDLE_SECONDS / 2)
    assert not gate.threads[0].is_alive()  # it does not wait for what will never come


async def test_one_who_subscribed_twice_and_leaves_once_still_hears() -> None:
    log = EventLog()
    announce = Announcer([log, log])
    announce.unsubscribe(log)
    announce(number(1))
    await announce.finish()

    assert shown(log.events) == [1]


async def test_whose_thread_has_ended_hears_at_the_end_what_he_missed(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observers, "IDLE_SECONDS", 0.01)
    announce = Announcer([gate], limit=1)
    announce(number(0))
    await asyncio.sleep(0)
    assert gate.entered.wait(10)
    for n in range(1, 4):
        announce(number(n))
    await asyncio.sleep(0)
    gate.may_go_on.set()
    await gate.log.wait_for(JobsPruned, count=2)
    await asyncio.to_thread(gate.threads[0].join, 10)

    await announce.finish()

    assert shown(gate.log.events) == [0, 1, "2 missed"]


@pytest.mark.usefixtures("forgetful")
async def test_a_filter_that_fails_on_the_warning_keeps_nobody_from_hearing() -> None:
    heard: list[int] = []

    def failing(event: Event) -> None:
        raise LookupError

    async def failing_too(event: Event) -> None:
        raise LookupError

    def then(event: Event) -> None:
        heard.append(1)
        raise LookupError

    announce = Announcer([failing, failing_too, then])
    announce(number(0))
    announce(number(1))
    await announce.finish()

    assert heard == [1, 1]


async def test_a_thread_that_waits_hears_the_next_event_at_once_and_the_end_as_well(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observers, "IDLE_SECONDS", 3600.0)
    gate.may_go_on.set()
    announce = Announcer([gate])
    announce(number(0))
    await announce.finish()
    for n in range(1, 4):
        announce(number(n))
        await gate.log.wait_for(JobsPruned, count=n + 1, timeout=5.0)
        await asyncio.sleep(5 * observers.REST_SECONDS)  # by then it waits: else this proves less, and does not fail
    assert len({*gate.threads[1:]}) == 1

    await announce.finish()

    assert not gate.threads[-1].is_alive()


async def test_an_event_for_which_there_was_no_thread_is_heard_with_the_next(caplog: pytest.LogCaptureFixture) -> None:
    log = EventLog()
    announce = Announcer([log])
    usual = threading.stack_size(HUGE)
    try:
        announce(number(1))
        await asyncio.sleep(0)
    finally:
        threading.stack_size(usual)
    assert "has no thread to run in" in caplog.text

    announce(number(2))
    await announce.finish()

    assert shown(log.events) == [1, 2]


def test_an_observer_that_is_done_after_its_event_loop_is_closed_harms_nobody(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave_it() -> None:
        announce(number(1))
        await announce.finish(0.01)

    announce = Announcer([gate])
    asyncio.run(leave_it())
    caplog.clear()
    gate.may_go_on.set()
    gate.threads[0].join(10)

    assert not gate.threads[0].is_alive()
    assert caplog.records == []


class Slow:
    """An `async def` observer that waits for ever in the call that hears a certain event."""

    def __init__(self, sticks_at: int) -> None:
        self.heard: list[int] = []
        self._sticks_at = sticks_at

    async def __call__(self, event: Event) -> None:
        assert isinstance(event, JobsPruned)
        self.heard.append(event.deleted)
        if event.deleted == self._sticks_at:
            await asyncio.get_running_loop().create_future()


async def said(announce: Announcer, numbers: list[int], heard: Callable[[], bool]) -> None:
    for n in numbers:
        announce(number(n))
    while not heard():  # and no longer: while the task still rests
        await asyncio.sleep(0)


@pytest.mark.parametrize("sticks_at", [0, 99])
def test_an_event_loop_that_ends_cancels_what_hears_without_a_word(
    sticks_at: int, caplog: pytest.LogCaptureFixture
) -> None:
    slow = Slow(sticks_at)
    announce = Announcer([slow])

    asyncio.run(said(announce, [0, 1, 2] if sticks_at == 0 else [0], lambda: slow.heard == [0]))
    asyncio.run(said(announce, [3], lambda: slow.heard == [0, 3]))
    asyncio.run(announce.finish())
    gc.collect()

    assert caplog.records == []


@pytest.mark.parametrize("in_a_loop", [True, False])
def test_a_call_that_is_thrown_away_with_its_event_loop_does_not_go_on(in_a_loop: bool) -> None:
    async def collect() -> None:
        gc.collect()

    slow = Slow(0)
    announce = Announcer([slow])
    loop = asyncio.new_event_loop()
    loop.run_until_complete(said(announce, [0, 1, 2], lambda: slow.heard == [0]))
    loop.set_exception_handler(lambda _loop, _context: None)  # it says that a task was pending
    loop.close()
    del announce, loop
    if in_a_loop:
        asyncio.run(collect())
    else:
        gc.collect()

    assert slow.heard == [0]


async def test_an_event_that_comes_as_a_task_ends_is_heard_by_the_next_and_waited_for() -> None:
    heard: list[Any] = []

    async def observer(event: Event) -> None:
        await asyncio.sleep(0)
        heard.extend(shown([event]))

    box = observers.TaskMailbox(observer, limit=10)
    box.put([number(1)])
    await asyncio.sleep(0)
    task = box._task
    assert task is not None
    while not task.done():  # seen before its callbacks are called
        await asyncio.sleep(0)
    box.put([number(2)])
    await asyncio.wait_for(asyncio.wrap_future(box.end()), 5)

    assert heard == [1, 2]
