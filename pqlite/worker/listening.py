"""Whether a worker listens when somebody enqueues."""

from __future__ import annotations

import time

VAIN = 4
"""So many wake-ups in a row that lead to nothing make a worker deaf, longer with each, up to ..."""
DEAF_AT_MOST = 1.0


class Listening:
    """Hears wake-ups, and stops doing so for a while when they keep leading to nothing.

    The jobs may be of other types, or other workers quicker: a hundred idle workers must not all look for each job.
    Whoever was deaf looks afterwards, so nothing is missed for longer than that.
    """

    def __init__(self) -> None:
        self._heard = False
        self._called = False
        self._vain = 0
        self._deaf_until = 0.0

    def hear(self) -> bool:
        """Take a wake-up; return whether it was heard."""
        if time.monotonic() < self._deaf_until:
            return False
        self._heard = True
        return True

    def answer(self) -> bool:
        """Return whether there was a wake-up since this was asked last."""
        heard, self._heard = self._heard, False
        self._called = self._called or heard
        return heard

    def found(self) -> None:
        """There were jobs."""
        self._called = False
        self._vain = 0

    def found_nothing(self) -> float:
        """There was nothing, wherever one looked; return for how many seconds not to listen (still, if something else
        than a wake-up led to the look).
        """
        called, self._called = self._called, False
        self._vain += called
        now = time.monotonic()
        if not called or self._vain < VAIN:
            return max(self._deaf_until - now, 0.0)
        deaf = min(0.1 * 2.0 ** min(self._vain - VAIN, 10), DEAF_AT_MOST)
        self._deaf_until = now + deaf
        return deaf
