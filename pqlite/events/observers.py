"""What observers have still to hear. Each has a queue, and a thread or a task of its own that empties it."""

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
"""A thread that has heard nothing for so long ends; the next event starts another."""
REPORT_SECONDS = 60.0
"""How often the log says that an observer is too slow, or fails."""
REST_SECONDS = 0.002
"""A thread or task that has heard all rests for so long before it looks again: a burst need not wake it each time."""
AT_A_STRETCH = 50
"""After so many events a task lets others have the event loop, even if its observer never waits for anything."""
JOIN_SECONDS = 0.5


def mailbox_of(observer: Observer, limit: int = LIMIT) -> Mailbox:
    """Return an empty mailbox of the kind that suits the observer."""
    return TaskMailbox(observer, limit) if is_async(observer) else ThreadMailbox(observer, limit)


class Mailbox:
    """The events that wait for one observer.

    Put in by one thread at a time (so is `end` called), taken out in order by whatever `_stir` has started; `_lock`
    guards whether that runs.
    """

    def __init__(self, observer: Observer, limit: int) -> None:
        self.observer = observer
        self._limit = limit
        self._waiting: deque[Event] = deque()
        self._full = False
        self._missed = self._missed_in_all = 0
        self._failures = 0
        self._slow_report, self._failure_report = Report(), Report()
        self._lock = threading.Lock()
        self._ends: list[Future[None]] = []

    def put(self, events: Sequence[Event]) -> None:
        """Let the observer hear these. Those that have no room are dropped, and the next one is preceded by word of
        that. Full, there is room again when half has been heard: few long gaps say more than many short ones.
        """
        waiting = len(self._waiting)
        self._full = self._full and waiting > self._limit // 2
        room = 0 if self._full else max(self._limit - waiting, 0)
        if events and room:
            self._say_missed()
            self._waiting.extend(events[:room])
        if len(events) > room:
            self._full = True
            self._missed += len(events) - room
            self._missed_in_all += len(events) - room
            if self._slow_report.is_due():
                self._log("is too slow: %s events were dropped for it so far", self._missed_in_all)
        self._stir()

    def end(self) -> Future[None]:
        """Return what is done when the observer has heard everything, and its thread or task has ended."""
        end: Future[None] = Future()
        self._say_missed()
        self._stir()
        with self._lock:
            if self._runs():
                self._ends.append(end)
                self._hasten()
            else:
                end.set_result(None)
        return end

    def drop(self, seconds: float) -> None:
        """Forget what waits, because the observer did not hear it in so many seconds."""
        self._log("was not done after %g s; %s events are dropped for it", seconds, len(self._waiting))
        self._waiting.clear()

    def join(self) -> None:
        """Wait for a thread that has heard everything: an instant."""

    def _say_missed(self) -> None:
        if self._missed:
            self._waiting.append(EventsMissed(self._missed))
            self._missed = 0

    def _stir(self) -> None:
        """See to it that what waits is heard."""
        raise NotImplementedError

    def _runs(self) -> bool:
        """Return whether something hears, or is about to."""
        raise NotImplementedError

    def _hasten(self) -> None:
        """Let it end as soon as nothing waits."""

    def _ended(self) -> None:
        ends, self._ends = self._ends, []
        for end in ends:
            with suppress(InvalidStateError):  # nobody waits for it any more
                end.set_result(None)

    def _failed(self, event: Event, error: BaseException) -> None:
        self._failures += 1
        if self._failure_report.is_due():
            self._log("failed on %s (%s failures so far)", type(event).__name__, self._failures, error=error)

    def _log(self, what: str, *args: Any, error: BaseException | None = None) -> None:
        with suppress(Exception):  # a filter of the user's that fails must not keep anybody from hearing
            logger.warning(f"The observer %r {what}.", self.observer, *args, exc_info=error)  # noqa: G004 - constant


class ThreadMailbox(Mailbox):
    """Calls a plain function in a daemon thread, which is there while there is something to hear."""

    def __init__(self, observer: Observer, limit: int) -> None:
        super().__init__(observer, limit)
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._latest: threading.Thread | None = None
        self._ending = False

    def join(self) -> None:
        """Wait for the thread, which has heard everything: an instant."""
        if self._latest is not None and self._thread is None:
            self._latest.join(JOIN_SECONDS)

    def _stir(self) -> None:
        with self._changed:
            if self._thread is not None:
                self._changed.notify()
            elif self._waiting:
                self._ending = False
                self._thread = self._latest = threading.Thread(target=self._run, name="pqlite observer", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError as error:
                    # No more threads, or the interpreter is at its end; the next event tries again.
                    self._thread = self._latest = None
                    if self._failure_report.is_due():
                        self._log("has no thread to hear in", error=error)

    def _runs(self) -> bool:
        return self._thread is not None

    def _hasten(self) -> None:
        self._ending = True
        self._changed.notify()

    def _run(self) -> None:
        observer: Any = self.observer
        while self._there_is_more():
            while True:
                try:
                    event = self._waiting.popleft()
                except IndexError:
                    break
                try:
                    if (answer := observer(event)) is not None and inspect.iscoroutine(answer):
                        answer.close()
                        raise TypeError("it returned a coroutine, which nobody awaits here: make it `async def` itself")
                except BaseException as error:
                    self._failed(event, error)
            time.sleep(REST_SECONDS)

    def _there_is_more(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ending, IDLE_SECONDS)
            if self._waiting:
                return True
            self._thread = None
            self._ended()
            return False


class TaskMailbox(Mailbox):
    """Awaits an `async def` function in a task, which is there while there is something to hear."""

    def __init__(self, observer: Observer, limit: int) -> None:
        super().__init__(observer, limit)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def drop(self, seconds: float) -> None:
        """Forget what waits, and cancel the call under way: a task should not outlive its event loop."""
        super().drop(seconds)
        task, loop = self._task, self._loop
        if task is not None and loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(task.cancel)

    def _stir(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # announced in a thread without a loop: it waits for the next event of one that has
        with self._lock:
            if not self._waiting or self._runs():
                return
            self._loop = loop
        # Not at once: a task that starts eagerly would be heard while the announcer is locked. And without the context
        # of whoever announces, a request perhaps.
        loop.call_soon(self._begin, loop, context=Context())

    def _runs(self) -> bool:
        return self._loop is not None and not self._loop.is_closed()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._task = loop.create_task(self._run(), name="pqlite observer")
        self._task.add_done_callback(self._done)

    async def _run(self) -> None:
        task, heard = asyncio.current_task(), 0
        assert task is not None
        observer: Any = self.observer
        while not task.cancelling():
            if not self._waiting:
                with suppress(asyncio.CancelledError):  # then it goes on no more
                    await asyncio.sleep(REST_SECONDS)
                if not self._waiting:
                    return
            event = self._waiting.popleft()
            heard += 1
            try:
                await observer(event)
            except BaseException as error:
                if not _goes_on(task):
                    return
                self._failed(event, error)
            with suppress(asyncio.CancelledError):  # then it goes on no more
                if heard % AT_A_STRETCH == 0:
                    await asyncio.sleep(0)

    def _done(self, task: asyncio.Task[None]) -> None:
        with self._lock:
            self._task = self._loop = None
            if task.cancelled() or task.cancelling():
                self._waiting.clear()
            if not self._waiting:
                self._ended()
        self._stir()


def _goes_on(task: asyncio.Task[None]) -> bool:
    """Return False if somebody has cancelled the task (who ends its event loop, or `drop`), or throws it away."""
    try:
        return asyncio.current_task() is task and not task.cancelling()
    except RuntimeError:
        return False  # no event loop runs


class Report:
    """Says when it is time to say something again."""

    def __init__(self) -> None:
        self._next = 0.0

    def is_due(self) -> bool:
        """Return whether the last time is long enough ago; if so, this is the last time."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + REPORT_SECONDS
        return True
