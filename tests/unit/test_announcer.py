"""How events reach observers, whatever those do. No worker, no database."""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, cast

import pytest

from pqlite import ConfigurationError
from pqlite.events import Event, EventsMissed, JobsPruned, observers
from pqlite.events.announcer import Announcer
from pqlite.testing import EventLog

request: ContextVar[str] = ContextVar("request", default="none")


def number(n: int) -> JobsPruned:
    return JobsPruned("w", n)


def numbers(events: list[Event]) -> list[int]:
    return [event.deleted for event in events if isinstance(event, JobsPruned)]


class Stuck:
    """A plain observer that waits, in its first call, until it is let go."""

    def __init__(self) -> None:
        self.log = EventLog()
        self.entered, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self, event: Event) -> None:
        self.entered.set()
        assert self.may_go_on.wait(10)
        self.log(event)


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    observer = Stuck()
    yield observer
    observer.may_go_on.set()


class Book:
    """What was heard, by a plain observer or by an asynchronous one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.inside = self.most_inside = 0

    def plain(self, event: Event) -> None:
        self.events.append(event)

    async def patient(self, event: Event) -> None:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        await asyncio.sleep(0)
        self.inside -= 1
        self.events.append(event)


async def test_each_observer_hears_every_event_in_order_and_one_at_a_time() -> None:
    plain, patient = Book(), Book()
    announce = Announcer([plain.plain, patient.patient])

    for n in range(500):
        announce(number(n))
        if n % 7 == 0:
            await asyncio.sleep(0)
    await announce.finish()

    assert numbers(plain.events) == numbers(patient.events) == [*range(500)]
    assert patient.most_inside == 1


async def test_whoever_announces_does_not_wait_and_no_observer_waits_for_another(stuck: Stuck) -> None:
    log, patient, never = EventLog(), Book(), asyncio.Event()

    async def stuck_too(event: Event) -> None:
        await never.wait()

    announce = Announcer([stuck, stuck_too, log, patient.patient])
    for n in range(100):
        announce(number(n))
    await log.wait_for(JobsPruned, count=100)
    while len(patient.events) < 100:
        await asyncio.sleep(0)

    assert stuck.log.events == []
    never.set()
    stuck.may_go_on.set()
    await stuck.log.wait_for(JobsPruned, count=100)


@pytest.mark.parametrize(
    "error", [RuntimeError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, BaseException]
)
async def test_what_an_observer_raises_is_logged_and_goes_no_further(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    log, plain, patient = EventLog(), Book(), Book()

    def failing(event: Event) -> None:
        plain.plain(event)
        raise error

    async def failing_too(event: Event) -> None:
        await patient.patient(event)
        raise error

    announce = Announcer([failing, failing_too, log])
    for n in range(3):
        announce(number(n))
    await announce.finish()

    assert numbers(log.events) == numbers(plain.events) == numbers(patient.events) == [0, 1, 2]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2  # once for each: one that always fails must not fill the log
    assert all("failed on JobsPruned (1 failures so far)" in line for line in said)


async def test_when_too_much_waits_for_an_observer_it_misses_events_and_is_told_how_many(
    stuck: Stuck, caplog: pytest.LogCaptureFixture
) -> None:
    log = EventLog()
    announce = Announcer([stuck, log], limit=10)

    announce(number(0))
    await asyncio.sleep(0)
    assert stuck.entered.wait(10)
    for n in range(1, 31):
        announce(number(n))
        await log.wait_for(JobsPruned, count=n + 1)
    stuck.may_go_on.set()
    await stuck.log.wait_for(JobsPruned, count=11)
    announce(number(31))
    await announce.finish()

    assert numbers(log.events) == [*range(32)]
    assert log.of(EventsMissed) == []
    assert [*map(shown, stuck.log.events)] == [*range(11), "20 missed", 31]
    assert caplog.text.count("is too slow") == 1


async def test_an_observer_that_was_too_slow_gets_nothing_until_half_of_what_waits_is_heard() -> None:
    box = Still(lambda _event: None, limit=10)
    box.put([number(n) for n in range(12)])
    for _ in range(4):
        box.hear()
    box.put([number(12)])
    box.hear()
    box.put([number(13)])

    assert [box.hear() for _ in range(7)] == [5, 6, 7, 8, 9, "3 missed", 13]


async def test_an_observer_hears_at_the_end_that_it_missed_the_last_events(stuck: Stuck) -> None:
    announce = Announcer([stuck], limit=5)
    announce(number(0))
    await asyncio.sleep(0)
    assert stuck.entered.wait(10)
    for n in range(1, 9):
        announce(number(n))
    await asyncio.sleep(0)
    stuck.may_go_on.set()
    await announce.finish()

    assert [*map(shown, stuck.log.events)] == [*range(6), "3 missed"]


async def test_the_end_waits_for_an_observer_until_its_deadline_and_what_is_left_is_not_heard(
    stuck: Stuck, caplog: pytest.LogCaptureFixture
) -> None:
    never, cancelled = asyncio.Event(), asyncio.Event()

    async def stuck_too(event: Event) -> None:
        try:
            await never.wait()
        finally:
            cancelled.set()

    announce = Announcer([stuck, stuck_too])
    for n in range(3):
        announce(number(n))
    await asyncio.sleep(0)
    assert stuck.entered.wait(10)
    await announce.finish(0.05)
    await asyncio.wait_for(cancelled.wait(), 10)
    stuck.may_go_on.set()
    announce(number(3))
    await stuck.log.wait_for(JobsPruned, lambda event: event.deleted == 3)

    assert numbers(stuck.log.events) == [0, 3]
    assert caplog.text.count("2 events are dropped for it") == 2
    await announce.finish(0.05)


async def test_after_the_end_there_are_no_threads_and_no_tasks_and_it_can_begin_again() -> None:
    plain, patient = Book(), Book()
    announce, threads = Announcer([plain.plain, patient.patient]), threading.enumerate()
    for n in range(2):
        announce(number(n))
        await announce.finish()

        assert {*threading.enumerate()} <= {*threads}
        assert [task for task in asyncio.all_tasks() if task.get_name() == "pqlite observer"] == []
    assert numbers(plain.events) == numbers(patient.events) == [0, 1]


async def test_one_who_subscribes_hears_what_comes_after_and_one_who_leaves_what_came_before() -> None:
    early, late = EventLog(), EventLog()
    announce = Announcer([early])

    announce(number(1))
    announce.subscribe(late)
    announce(number(2))
    announce.unsubscribe(early)
    announce(number(3))
    await announce.finish()

    await early.wait_for(JobsPruned, count=2)
    assert (numbers(early.events), numbers(late.events)) == ([1, 2], [2, 3])
    with pytest.raises(ValueError, match="is not subscribed"):
        announce.unsubscribe(early)


async def test_an_observer_may_subscribe_another_and_leave() -> None:
    late, hearts = EventLog(), Book()

    def once(event: Event) -> None:
        announce.subscribe(late)
        announce.unsubscribe(once)

    async def once_too(event: Event) -> None:
        announce.unsubscribe(once_too)
        announce.subscribe(hearts.patient)

    announce = Announcer([once, once_too])
    announce(number(1))
    await announce.finish()
    announce(number(2))
    await announce.finish()

    assert numbers(late.events) == numbers(hearts.events) == [2]


async def test_an_announcer_says_whether_anybody_observes_it(caplog: pytest.LogCaptureFixture) -> None:
    log, observer = Book(), Book()
    announce = Announcer(log=log.plain)
    assert not announce.wanted
    announce.subscribe(observer.plain)
    assert announce.wanted
    announce.unsubscribe(observer.plain)
    assert not announce.wanted

    with caplog.at_level(logging.DEBUG, "pqlite"):
        announce.refresh_wanted()
        assert announce.wanted
        assert Announcer(log=log.plain).wanted
        assert not Announcer().wanted


async def test_the_log_is_written_at_once_and_its_errors_reach_nobody() -> None:
    log, observer = Book(), Book()

    def failing(event: Event) -> None:
        log.plain(event)
        raise RuntimeError

    announce = Announcer([observer.plain], log=failing)
    announce(number(1))

    assert numbers(log.events) == [1]
    await announce.finish()
    assert numbers(observer.events) == [1]


async def test_events_of_another_thread_are_heard() -> None:
    log, patient = EventLog(), Book()
    announce = Announcer([log, patient.patient])

    thread = threading.Thread(target=lambda: [announce(number(n)) for n in range(3)])
    thread.start()
    thread.join()
    await log.wait_for(JobsPruned, count=3)
    announce(number(3))
    await announce.finish()

    assert numbers(log.events) == numbers(patient.events) == [0, 1, 2, 3]


async def test_nothing_is_lost_between_two_threads_that_announce_at_once() -> None:
    log = EventLog()
    announce = Announcer([log])

    def many() -> None:
        for n in range(2000):
            announce(number(n))

    thread = threading.Thread(target=many)
    thread.start()
    for n in range(2000, 4000):
        announce(number(n))
        if n % 10 == 0:
            await asyncio.sleep(0)
    thread.join()
    await announce.finish()

    heard = numbers(log.events)
    assert sorted(heard) == [*range(4000)]
    assert [n for n in heard if n < 2000] == [*range(2000)]
    assert [n for n in heard if n >= 2000] == [*range(2000, 4000)]


def test_one_announcer_serves_one_event_loop_after_the_other() -> None:
    plain, patient = Book(), Book()
    announce = Announcer([plain.plain, patient.patient])

    async def say(n: int) -> None:
        announce(number(n))
        await announce.finish()

    for n in range(3):
        asyncio.run(say(n))

    assert numbers(plain.events) == numbers(patient.events) == [0, 1, 2]


def test_an_event_loop_that_is_closed_at_once_takes_nothing_with_it_but_a_call_under_way() -> None:
    plain, patient = Book(), Book()
    announce = Announcer([plain.plain, patient.patient])

    async def say(n: int) -> None:
        announce(number(n))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(say(1))
    loop.close()
    asyncio.run(say(2))
    asyncio.run(announce.finish())

    assert numbers(plain.events) == numbers(patient.events) == [1, 2]


async def test_an_event_loop_that_stands_still_holds_up_no_event_of_another() -> None:
    log = EventLog()
    announce = Announcer([log])
    announced, may_go_on = threading.Event(), threading.Event()

    async def announce_and_block() -> None:
        announce(number(1))
        announced.set()
        assert may_go_on.wait(20)

    thread = threading.Thread(target=lambda: asyncio.run(announce_and_block()))
    thread.start()
    assert announced.wait(10)
    announce(number(2))
    try:
        await log.wait_for(JobsPruned, count=2, timeout=10)
    finally:
        may_go_on.set()
        thread.join()

    assert numbers(log.events) == [1, 2]


async def test_an_observers_task_knows_nothing_of_whoever_announces() -> None:
    seen: list[str] = []

    async def look(event: Event) -> None:
        seen.append(request.get())

    announce = Announcer([look])
    request.set("of a user")
    announce(number(1))
    await announce.finish()

    assert seen == ["none"]


async def test_an_async_observer_that_never_waits_leaves_the_event_loop_to_others() -> None:
    turns = 0
    heard = Book()

    async def busy(event: Event) -> None:
        heard.plain(event)

    announce = Announcer([busy])
    for n in range(1000):
        announce(number(n))
    while len(heard.events) < 1000:
        turns += 1
        await asyncio.sleep(0)

    assert turns >= 1000 // observers.EVENTS_PER_TURN
    await announce.finish()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 made eager tasks")
async def test_tasks_that_start_eagerly_make_no_difference() -> None:
    patient = Book()

    async def subscribing(event: Event) -> None:
        if event == number(0):
            announce.subscribe(patient.patient)

    announce = Announcer([subscribing])
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(cast(Any, asyncio).eager_task_factory)
    try:
        announce(number(0))
        while not patient.events:
            announce(number(1))
            await asyncio.sleep(0.001)
        await announce.finish()
    finally:
        loop.set_task_factory(before)

    assert set(numbers(patient.events)) == {1}


async def test_a_plain_observer_that_returns_a_coroutine_is_told_to_be_async(caplog: pytest.LogCaptureFixture) -> None:
    book = Book()
    announce = Announcer([lambda event: book.patient(event)])

    announce(number(1))
    await announce.finish()

    assert book.events == []
    assert "make it `async def`" in caplog.text


async def test_an_idle_thread_ends_and_the_next_event_starts_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "IDLE_SECONDS", 0.01)
    threads: list[threading.Thread] = []
    log = EventLog()

    def note(event: Event) -> None:
        threads.append(threading.current_thread())
        log(event)

    announce = Announcer([note])
    announce(number(1))
    await log.wait_for(JobsPruned)
    await asyncio.to_thread(threads[0].join, 10)
    announce(number(2))
    await log.wait_for(JobsPruned, count=2)

    assert threads[0] is not threads[1]
    assert not threads[0].is_alive()
    assert threads[1].daemon
    await announce.finish()


def test_an_observer_that_cannot_be_called_is_refused() -> None:
    for make in cast("list[Callable[[], object]]", [lambda: Announcer([cast(Any, "x")]), lambda: subscribed("x")]):
        with pytest.raises(ConfigurationError, match="must be a function that takes an event, not 'x'"):
            make()


async def test_callable_objects_and_partial_functions_are_told_apart_by_what_they_are() -> None:
    heard: list[str] = []

    class Asynchronous:
        async def __call__(self, event: Event) -> None:
            heard.append(threading.current_thread().name)

    announce = Announcer([Asynchronous()])
    announce(number(1))
    await announce.finish()

    assert heard == [threading.current_thread().name]


async def test_an_event_says_when_it_happened() -> None:
    before = time.time()
    event = number(1)

    assert before <= event.at <= time.time()
    assert event == number(1)


def shown(event: Event) -> Any:
    return f"{event.count} missed" if isinstance(event, EventsMissed) else cast(JobsPruned, event).deleted


def subscribed(observer: Any) -> None:
    Announcer().subscribe(observer)


class Still(observers.Mailbox):
    """A mailbox that hears when it is told to."""

    def hear(self) -> Any:
        return shown(self._waiting.popleft())

    def _start(self) -> None:
        """Leave it to `hear`."""
