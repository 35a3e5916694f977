"""Limits how often notifications wake a worker that finds no job."""

from __future__ import annotations

import time

MAX_FRUITLESS = 4
"""After so many fruitless wake-ups in a row the worker ignores further ones, each time for longer, up to ..."""
MAX_IGNORE_SECONDS = 1.0


class Wakeups:
    """Records wake-ups, and ignores them for a while when they keep finding no job.

    The jobs may be of other types, or other workers may be faster: a hundred idle workers must not all query for each
    job. The worker queries again after that time, so no job is missed for longer.
    """

    def __init__(self) -> None:
        self._pending = False
        self._woken = False
        self._fruitless = 0
        self._ignore_until = 0.0

    def receive(self) -> bool:
        """Record a wake-up; return False if it is ignored."""
        if time.monotonic() < self._ignore_until:
            return False
        self._pending = True
        return True

    def take(self) -> bool:
        """Return whether there was a wake-up since the last call."""
        pending, self._pending = self._pending, False
        self._woken = self._woken or pending
        return pending

    def found(self) -> None:
        """Record that jobs were found."""
        self._woken = False
        self._fruitless = 0

    def found_nothing(self) -> float:
        """Record that no job was found; return for how many seconds wake-ups are ignored.

        Only a wake-up counts as fruitless. If the query had another cause, the time left is returned.
        """
        woken, self._woken = self._woken, False
        self._fruitless += woken
        now = time.monotonic()
        if not woken or self._fruitless < MAX_FRUITLESS:
            return max(self._ignore_until - now, 0.0)
        seconds = min(0.1 * 2.0 ** min(self._fruitless - MAX_FRUITLESS, 10), MAX_IGNORE_SECONDS)
        self._ignore_until = now + seconds
        return seconds
