"""Carries events to their observers without waiting for any of them."""

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
    """Takes events from any thread, and lets each observer hear them.

    Events are gathered, and handed over once per turn of the event loop: a burst of them wakes each observer once.
    `wanted` tells hot paths whether anybody wants each step of each job, so that nothing is built where nobody listens.

    Args:
        observers: see `pqlite.events.Observer`.
        log: called at once with everything that is announced, where it is announced; it must neither block nor wait.
        limit: how many events may wait for one observer.

    Raises:
        ConfigurationError: an observer cannot be called, or they are no list.
    """

    def __init__(
        self, observers: Sequence[Observer] = (), log: Callable[[Event], None] | None = None, limit: int = LIMIT
    ) -> None:
        self._log = log
        self._limit = limit
        self._lock = threading.Lock()
        self._announced: deque[Event] = deque()
        self._due: asyncio.AbstractEventLoop | None = None  # whose next turn hands over
        self._mailboxes: tuple[Mailbox, ...] = ()
        self.wanted = False
        """Whether anybody wants the steps of jobs that go well."""
        for observer in listed("observers", observers):
            self.subscribe(observer)
        self.ask()

    def ask(self) -> None:
        """Find out what is wanted: asking the logger's level for each job would cost too much."""
        self.wanted = bool(self._mailboxes) or (self._log is not None and _logger.isEnabledFor(logging.DEBUG))

    def subscribe(self, observer: Observer) -> None:
        """Add an observer; it hears what happens from now on. From any thread.

        Raises:
            ConfigurationError: it cannot be called.
        """
        if not callable(observer):
            raise ConfigurationError(f"An observer must be a function that takes an event, not {observer!r}")
        with self._lock:
            self._pass_on()
            self._mailboxes = (*self._mailboxes, mailbox_of(observer, self._limit))
        self.ask()

    def unsubscribe(self, observer: Observer) -> None:
        """Remove an observer. It still hears what was announced so far. From any thread.

        Raises:
            ValueError: it is not subscribed.
        """
        with self._lock:
            self._pass_on()
            leaving = next((mailbox for mailbox in self._mailboxes if mailbox.observer == observer), None)
            if leaving is None:
                raise ValueError(f"{observer!r} is not subscribed")
            self._mailboxes = tuple(mailbox for mailbox in self._mailboxes if mailbox is not leaving)
            leaving.end()
        self.ask()

    def __call__(self, event: Event) -> None:
        """Let everybody hear an event, soon; nothing is raised."""
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
                self._hand_over()  # another thread, which has no turns to wait for
            else:
                if self._due is not loop:  # nobody waits for another loop, which may stand still
                    self._due = loop
                    loop.call_soon(self._hand_over)

    async def finish(self, seconds: float = DELIVERY_SECONDS) -> None:
        """Return when the observers have heard all that was announced, or after so many seconds. Who is not done by
        then does not hear the rest, which is logged. What is announced later is heard again.
        """
        with self._lock:
            self._pass_on()
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

    def _hand_over(self) -> None:
        with self._lock:
            self._pass_on()

    def _pass_on(self) -> None:
        self._due = None  # before looking: who announces from now on asks for another time
        events = [self._announced.popleft() for _ in range(len(self._announced))]
        for mailbox in self._mailboxes:
            mailbox.put(events)
