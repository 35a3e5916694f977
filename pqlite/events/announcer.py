"""Distributes events to observers without waiting for them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from pqlite.callables import listed
from pqlite.errors import ConfigurationError
from pqlite.events.observers import LIMIT, Mailbox, mailbox_of
from pqlite.events.types import Event, Observer

logger = logging.getLogger(__name__)
_logger = logging.getLogger("pqlite")

DELIVERY_SECONDS = 1.0


class Announcer:
    """Accepts events from any thread and puts them into the queue of each observer.

    Events are collected and distributed once per iteration of the event loop, so that a burst wakes each observer once.
    `wanted` tells hot paths whether the events of each step of a job have a receiver; if not, they are not created.

    Args:
        observers: see `pqlite.events.Observer`.
        log: called with every event at once, by the thread that announces it; it must not block.
        limit: how many events may wait for one observer.

    Raises:
        ConfigurationError: an observer is not callable, or `observers` is not a list.
    """

    def __init__(
        self, observers: Sequence[Observer] = (), log: Callable[[Event], None] | None = None, limit: int = LIMIT
    ) -> None:
        self._log = log
        self._limit = limit
        self._lock = threading.Lock()
        self._announced: deque[Event] = deque()
        self._due: asyncio.AbstractEventLoop | None = None  # the loop that has a `_distribute` scheduled
        self._mailboxes: tuple[Mailbox, ...] = ()
        self.wanted = False
        """Whether there is an observer, or a log at DEBUG: the receivers of the events of jobs without errors."""
        for observer in listed("observers", observers):
            self.subscribe(observer)
        self.refresh_wanted()

    def refresh_wanted(self) -> None:
        """Set `wanted` again; reading the logger's level for each job would cost too much."""
        self.wanted = bool(self._mailboxes) or (self._log is not None and _logger.isEnabledFor(logging.DEBUG))

    def subscribe(self, observer: Observer) -> None:
        """Add an observer; it receives the events from now on. May be called from any thread.

        Raises:
            ConfigurationError: it is not callable.
        """
        if not callable(observer):
            raise ConfigurationError(f"An observer must be a function that takes an event, not {observer!r}")
        with self._lock:
            self._distribute_locked()
            self._mailboxes = (*self._mailboxes, mailbox_of(observer, self._limit))
        self.refresh_wanted()

    def unsubscribe(self, observer: Observer) -> None:
        """Remove an observer. It still receives the events announced before. May be called from any thread.

        Raises:
            ValueError: it is not subscribed.
        """
        with self._lock:
            self._distribute_locked()
            removed = next((mailbox for mailbox in self._mailboxes if mailbox.observer == observer), None)
            if removed is None:
                raise ValueError(f"{observer!r} is not subscribed")
            self._mailboxes = tuple(mailbox for mailbox in self._mailboxes if mailbox is not removed)
            removed.end()
        self.refresh_wanted()

    def __call__(self, event: Event) -> None:
        """Log an event, and schedule its delivery to all observers. Raises nothing."""
        if self._log is not None:
            try:
                self._log(event)
            except Exception:
                logger.exception("Logging %s failed.", type(event).__name__)
        if self._mailboxes:
            self._announced.append(event)
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                self._distribute()  # a thread without an event loop
            else:
                if self._due is not loop:  # do not rely on another loop: it may be blocked
                    self._due = loop
                    loop.call_soon(self._distribute)

    async def finish(self, seconds: float = DELIVERY_SECONDS) -> None:
        """Return when the observers have received all events announced so far, or after so many seconds. The rest is
        then dropped and the loss logged. Events that are announced later are delivered as before.
        """
        with self._lock:
            self._distribute_locked()
            ends = {asyncio.wrap_future(mailbox.end()): mailbox for mailbox in self._mailboxes}
        if not ends:
            return
        try:
            _, late = await asyncio.wait(ends, timeout=seconds)
            for end in late:
                ends[end].drop(seconds)
        finally:
            for end, mailbox in ends.items():
                if not end.cancel():
                    mailbox.join()

    def _distribute(self) -> None:
        with self._lock:
            self._distribute_locked()

    def _distribute_locked(self) -> None:
        self._due = None  # first: an event announced from now on schedules the next call
        events = [self._announced.popleft() for _ in range(len(self._announced))]
        for mailbox in self._mailboxes:
            mailbox.put(events)
