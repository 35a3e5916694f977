"""Lets tests of workers wait for events."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from pqlite.events import Event

E = TypeVar("E", bound=Event)

PATIENCE = 15.0


class EventLog:
    """An observer that records every event and can be waited on: `Worker(..., observers=[log])`.

        await log.wait_for(JobSettled, lambda event: event.outcome.job.id == job_id)

    It may be waited on in any event loop. When the worker has stopped, or `drain` has returned, it holds everything.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._lock = threading.Lock()
        self._waiting: list[Future[None]] = []

    def __call__(self, event: Event) -> None:
        """Record an event."""
        with self._lock:
            self.events.append(event)
            waiting, self._waiting = self._waiting, []
        for news in waiting:
            news.set_result(None)

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of a kind so far, in their order."""
        return [event for event in tuple(self.events) if isinstance(event, kind)]

    async def wait_for(
        self,
        kind: type[E],
        matches: Callable[[E], bool] = lambda _: True,
        *,
        count: int = 1,
        timeout: float = PATIENCE,
    ) -> E:
        """Wait for the `count`-th event of a kind that matches, and return it; past events count, too.

        Raises:
            TimeoutError: it has not, in `timeout` seconds; the message says what has come instead.
        """
        deadline = time.monotonic() + timeout
        while True:
            news: Future[None] = Future()
            with self._lock:
                self._waiting.append(news)
            found = [event for event in self.of(kind) if matches(event)]
            if len(found) >= count:
                return found[count - 1]
            try:
                # Not `wait_for`: a future that it cancels could not be set any more.
                await asyncio.wait([asyncio.wrap_future(news)], timeout=max(deadline - time.monotonic(), 0.0))
            finally:
                with self._lock:  # its event loop may be closed soon
                    self._waiting = [other for other in self._waiting if other is not news]
            if time.monotonic() >= deadline and not news.done():
                raise TimeoutError(self._missed(kind, len(found), count, timeout))

    def _missed(self, kind: type[Event], found: int, count: int, timeout: float) -> str:
        heard = ", ".join(f"{n} {name}" for name, n in Counter(type(event).__name__ for event in self.events).items())
        return (
            f"{found} of {count} matching {kind.__name__} came within {timeout:g} s; all that came: {heard or 'none'}"
        )
