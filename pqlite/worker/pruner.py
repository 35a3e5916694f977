"""Deletes finished jobs beyond their retention, in small chunks, in the background."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

from pqlite.events import JobsPruned
from pqlite.events.announcer import Announcer
from pqlite.worker.supervisor import FOREVER

PASS_EVERY = 60.0
CHUNK_PAUSE = 0.1
PRUNE_SECONDS = 10.0

Prune = Callable[[timedelta | None, timedelta | None, int | None], Awaitable[tuple[int | None, int]]]


class Pruner:
    """Deletes in chunks, one pass over all finished jobs a minute."""

    def __init__(
        self, *, prune: Prune, done: timedelta | None, failed: timedelta | None, worker_id: str, announce: Announcer
    ) -> None:
        self._prune = prune
        self._done = done
        self._failed = failed
        self._worker_id = worker_id
        self._announce = announce
        self._cursor: int | None = None

    async def step(self) -> float:
        """Delete one chunk; return how long to pause."""
        if self._done is None and self._failed is None:
            return FOREVER
        async with asyncio.timeout(PRUNE_SECONDS):
            self._cursor, deleted = await self._prune(self._done, self._failed, self._cursor)
        if deleted:
            self._announce(JobsPruned(self._worker_id, deleted))
        if deleted or self._cursor is not None:
            return CHUNK_PAUSE
        return PASS_EVERY * random.uniform(0.8, 1.2)
