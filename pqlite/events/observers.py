"""Bounded queues between the announcer and its observers. A thread or a task of its own empties each queue."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from contextvars import Context
from typing import Any

from pqlite.callables import is_async
from pqlite.events.types import Event, EventsMissed, Observer

logger = logging.getLogger(__name__)

LIMIT = 10_000
"""How many events wait for one observer at most."""
IDLE_SECONDS = 5.0
"""A delivery thread without events ends after this time; the next event starts another."""
REPORT_SECONDS = 60.0
"""How often the log reports that an observer is too slow, or fails."""
REST_SECONDS = 0.002
"""A thread or task sleeps this long when its queue is empty, so that each event of a burst need not wake it."""
EVENTS_PER_TURN = 50
"""After so many events a task yields to the event loop, even if its observer never waits for anything."""
JOIN_SECONDS = 0.5


def mailbox_of(observer: Observer, limit: int = LIMIT) -> Mailbox:
    """Return an empty mailbox: for a coroutine function one with a task, else one with a thread."""
    return TaskMailbox(observer, limit) if is_async(observer) else ThreadMailbox(observer, limit)


class Mailbox:
    """The queue of one observer.

    The announcer calls `put` and `end` from one thread at a time. The thread or task that `_start` has started delivers
    the events in order; `_lock` guards its start and its end.
    """

    def __init__(self, observer: Observer, limit: int) -> None:
        self.observer = observer
        self._limit = limit
        self._waiting: deque[Event] = deque()
        self._full = False
        self._missed = self._missed_total = 0
        self._failures = 0
        self._slow_report, self._failure_report = Report(), Report()
        self._lock = threading.Lock()
        self._ends: list[Future[None]] = []

    def put(self, events: Sequence[Event]) -> None:
        """Append events for the observer. Those without room are dropped, and EventsMissed precedes the next one.

        A full queue takes events again when it is half empty: a few long gaps are clearer than many short ones.
        """
        waiting = len(self._waiting)
        self._full = self._full and waiting > self._limit // 2
        room = 0 if self._full else max(self._limit - waiting, 0)
        if events and room:
            self._append_missed()
            self._waiting.extend(events[:room])
        if len(events) > room:
            self._full = True
            self._missed += len(events) - room
            self._missed_total += len(events) - room
            if self._slow_report.is_due():
                self._log("is too slow: %s events were dropped for it so far", self._missed_total)
        self._start()

    def end(self) -> Future[None]:
        """Return a future that is done when the queue is empty and the delivery thread or task has ended."""
        end: Future[None] = Future()
        self._append_missed()
        self._start()
        with self._lock:
            if self._is_running():
                self._ends.append(end)
                self._end_when_empty()
            else:
                end.set_result(None)
        return end

    def drop(self, seconds: float) -> None:
        """Drop the waiting events, which the observer did not receive within so many seconds."""
        self._log("was not done after %g s; %s events are dropped for it", seconds, len(self._waiting))
        self._waiting.clear()

    def join(self) -> None:
        """Wait for the end of a thread that has nothing more to deliver, which takes an instant."""

    def _append_missed(self) -> None:
        if self._missed:
            self._waiting.append(EventsMissed(self._missed))
            self._missed = 0

    def _start(self) -> None:
        """Start the delivery thread or task if events wait and none is running; wake it if one is."""
        raise NotImplementedError

    def _is_running(self) -> bool:
        """Return whether a delivery thread or task is running, or is scheduled to start."""
        raise NotImplementedError

    def _end_when_empty(self) -> None:
        """Make the delivery thread end as soon as no event waits, instead of after IDLE_SECONDS."""

    def _ended(self) -> None:
        ends, self._ends = self._ends, []
        for end in ends:
            with suppress(InvalidStateError):  # cancelled: its waiter has gone
                end.set_result(None)

    def _failed(self, event: Event, error: BaseException) -> None:
        self._failures += 1
        if self._failure_report.is_due():
            self._log("failed on %s (%s failures so far)", type(event).__name__, self._failures, error=error)

    def _log(self, what: str, *args: Any, error: BaseException | None = None) -> None:
        with suppress(Exception):  # a failing filter of the user's must not stop the delivery
            logger.warning(f"The observer %r {what}.", self.observer, *args, exc_info=error)  # noqa: G004 - constant


class ThreadMailbox(Mailbox):
    """Calls a plain function in a daemon thread, which exists while there are events."""

    def __init__(self, observer: Observer, limit: int) -> None:
        super().__init__(observer, limit)
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._latest: threading.Thread | None = None
        self._ending = False

    def join(self) -> None:
        """Wait for the end of the thread, which has nothing more to deliver: it takes an instant."""
        if self._latest is not None and self._thread is None:
            self._latest.join(JOIN_SECONDS)

    def _start(self) -> None:
        with self._changed:
            if self._thread is not None:
                self._changed.notify()
            elif self._waiting:
                self._ending = False
                self._thread = self._latest = threading.Thread(target=self._run, name="pqlite observer", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError as error:
                    # No more threads, or the interpreter is exiting; the next event tries again.
                    self._thread = self._latest = None
                    if self._failure_report.is_due():
                        self._log("has no thread to run in", error=error)

    def _is_running(self) -> bool:
        return self._thread is not None

    def _end_when_empty(self) -> None:
        self._ending = True
        self._changed.notify()

    def _run(self) -> None:
        observer: Any = self.observer
        while self._wait_for_events():
            while True:
                try:
                    event = self._waiting.popleft()
                except IndexError:
                    break
                try:
                    if (answer := observer(event)) is not None and inspect.iscoroutine(answer):
                        answer.close()
                        raise TypeError("it returned a coroutine, which is not awaited: make it `async def` itself")
                except BaseException as error:
                    self._failed(event, error)
            time.sleep(REST_SECONDS)

    def _wait_for_events(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ending, IDLE_SECONDS)
            if self._waiting:
                return True
            self._thread = None
            self._ended()
            return False


class TaskMailbox(Mailbox):
    """Awaits an `async def` function in a task, which exists while there are events."""

    def __init__(self, observer: Observer, limit: int) -> None:
        super().__init__(observer, limit)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def drop(self, seconds: float) -> None:
        """Drop the waiting events and cancel the running call: a task should not outlive its event loop."""
        super().drop(seconds)
        task, loop = self._task, self._loop
        if task is not None and loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(task.cancel)

    def _start(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # a thread without an event loop: the next event that is announced on a loop starts the task
        with self._lock:
            if not self._waiting or self._is_running():
                return
            self._loop = loop
        # Later, because an eager task would call the observer while the announcer is locked; and in an empty context,
        # because the caller's may be that of a request.
        loop.call_soon(self._begin, loop, context=Context())

    def _is_running(self) -> bool:
        return self._loop is not None and not self._loop.is_closed()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._task = loop.create_task(self._run(), name="pqlite observer")
        self._task.add_done_callback(self._done)

    async def _run(self) -> None:
        task, delivered = asyncio.current_task(), 0
        assert task is not None
        observer: Any = self.observer
        while not task.cancelling():
            if not self._waiting:
                with suppress(asyncio.CancelledError):  # the loop's condition ends it
                    await asyncio.sleep(REST_SECONDS)
                if not self._waiting:
                    return
            event = self._waiting.popleft()
            delivered += 1
            try:
                await observer(event)
            except BaseException as error:
                if not _may_continue(task):
                    return
                self._failed(event, error)
            with suppress(asyncio.CancelledError):  # the loop's condition ends it
                if delivered % EVENTS_PER_TURN == 0:
                    await asyncio.sleep(0)

    def _done(self, task: asyncio.Task[None]) -> None:
        with self._lock:
            self._task = self._loop = None
            if task.cancelled() or task.cancelling():
                self._waiting.clear()
            if not self._waiting:
                self._ended()
        self._start()


def _may_continue(task: asyncio.Task[None]) -> bool:
    """Return False if the task was cancelled (by `drop`, or at the end of its event loop) or is being destroyed."""
    try:
        return asyncio.current_task() is task and not task.cancelling()
    except RuntimeError:
        return False  # no event loop runs


class Report:
    """Limits a repeated log line to one in REPORT_SECONDS."""

    def __init__(self) -> None:
        self._next = 0.0

    def is_due(self) -> bool:
        """Return whether the line may be logged now, and count it as logged if so."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + REPORT_SECONDS
        return True
