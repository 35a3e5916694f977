"""Deletes finished jobs beyond their retention, in small chunks, in the background."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from pqlite.events import JobsPruned
from pqlite.events.announcer import Announcer
from pqlite.worker.supervisor import FOREVER

PASS_EVERY = 60.0
CHUNK_PAUSE = 0.1
READ_PAUSE = 0.01
"""After a chunk of which nothing was deleted, which costs the database little."""
PRUNE_SECONDS = 10.0

Prune = Callable[[timedelta | None, timedelta | None, int | None], Awaitable[tuple[int | None, int, float | None]]]


class Pruner:
    """Deletes in chunks, one pass over all finished jobs a minute.

    It remembers until when the rows of a range of ids stay, so that a pass does not read them again: a million jobs
    that are kept for a week cost a pass nothing.
    """

    def __init__(
        self,
        *,
        prune: Prune,
        done: timedelta | None,
        failed: timedelta | None,
        worker_id: str,
        announce: Announcer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prune = prune
        self._done = done
        self._failed = failed
        self._worker_id = worker_id
        self._announce = announce
        self._clock = clock
        self._cursor: int | None = None
        self._staying = Ranges()

    async def step(self) -> float:
        """Delete one chunk; return how long to pause."""
        if self._done is None and self._failed is None:
            return FOREVER
        start = self._staying.past(self._cursor or 0, self._clock())
        async with asyncio.timeout(PRUNE_SECONDS):
            self._cursor, deleted, again_in = await self._prune(self._done, self._failed, start)
        if self._cursor is None:
            self._staying.forget_from(start)
        else:
            self._staying.add(start, self._cursor, self._clock() + (again_in or 0.0))
        if deleted:
            self._announce(JobsPruned(self._worker_id, deleted))
            return CHUNK_PAUSE
        if self._cursor is not None:
            return READ_PAUSE
        return PASS_EVERY * random.uniform(0.8, 1.2)


class Ranges:
    """Ranges of ids, each with the moment until which its rows stay; they do not overlap.

    A pass visits them in order, so `add` and `past` work from where the latest call ended.
    """

    def __init__(self) -> None:
        self._ranges: dict[int, tuple[int, float]] = {}  # start: end, moment

    def past(self, start: int, now: float) -> int:
        """Return the first id, from `start` on, that no range covers whose moment is still to come."""
        while (found := self._ranges.get(start)) is not None and found[1] > now:
            start = found[0]
        return start

    def add(self, start: int, end: int, moment: float) -> None:
        """Cover the ids from `start` to `end` until `moment`, instead of what covered them before."""
        at = start
        while at < end and (found := self._ranges.pop(at, None)) is not None:
            if found[0] > end:
                self._ranges[end] = found  # the rest of it
            at = found[0]
        self._ranges[start] = (end, moment)

    def forget_from(self, start: int) -> None:
        """Forget the ranges from `start` on: the pass has ended there."""
        while (found := self._ranges.pop(start, None)) is not None:
            start = found[0]

    def __len__(self) -> int:
        """Return how many ranges are remembered."""
        return len(self._ranges)
