"""Looks for jobs behind the watermarks, away from the connection that claims.

Two looks, from the same query. A *look-back* begins a little before each lane's watermark, for commits that were late.
A *sweep* begins at the beginning, for everything else: jobs given back, times in the past, a clock that was set back.
Under a long transaction both walk index entries that vacuum may not remove, so they are rationed, and the claimer
never waits for them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from pqlite.store.engine import Head
from pqlite.worker.lanes import Asked, Lanes

LOOK_EVERY = 1.0
SWEEP_EVERY = 5.0
IDLE_AT_MOST = 10.0
LOOK_BACK = timedelta(seconds=5)
RATION = 20
"""Each kind of look takes a twentieth of the time at most, however many dead index entries it meets."""

Look = Callable[[Asked], Awaitable[list[Head]]]


class Scout:
    """Looks back once a second and sweeps every five while there are news; idle, it sweeps every ten."""

    def __init__(self, *, lanes: Lanes, look: Look, found: Callable[[], None]) -> None:
        self._lanes = lanes
        self._look = look
        self._found = found
        self._news = True
        self._hurry = False
        self._pause = LOOK_EVERY
        self._next_look = self._next_sweep = 0.0
        self._earliest_look = self._earliest_sweep = 0.0
        self.sweep_seconds = self.look_back_seconds = 0.0
        """How long the latest took."""

    def stir(self, *, everywhere: bool = False) -> bool:
        """Look soon: jobs come and go; or (everywhere) some were given back, and may be anywhere. Return whether that
        is news.
        """
        news = not self._news or (everywhere and not self._hurry)
        self._news = True
        self._hurry = self._hurry or everywhere
        return news

    @property
    def late_commits_within(self) -> float:
        """Return after how many seconds, at most, a job is seen that is due up to 5 s behind its lane's watermark."""
        return max(LOOK_EVERY, RATION * self.look_back_seconds) + self.look_back_seconds

    @property
    def anything_within(self) -> float:
        """Return after how many seconds, at most, any READY job is seen, wherever it is (idle: 10 s)."""
        return max(SWEEP_EVERY, RATION * self.sweep_seconds) + self.sweep_seconds

    async def once(self) -> float:
        """Look if it is time to; return how long to pause."""
        now = time.monotonic()
        sweep = now >= (self._earliest_sweep if self._hurry else self._next_sweep)
        if not sweep and now < (self._earliest_look if self._news else self._next_look):
            return self._rest(now)
        self._pause = LOOK_EVERY if self._news else min(2 * self._pause, IDLE_AT_MOST)
        self._news = False
        if sweep:
            self._hurry = False
        before = self._lanes.marks
        heads = await self._look([] if sweep else self._lanes.known(LOOK_BACK))
        end = time.monotonic()
        took, rest = end - now, RATION * (end - now)
        if sweep:
            self.sweep_seconds, self._earliest_sweep = took, end + rest
            self._next_sweep = end + max(SWEEP_EVERY, self._pause, rest)
        else:
            self.look_back_seconds = took
        self._earliest_look = end + max(LOOK_EVERY, RATION * self.look_back_seconds)
        self._next_look = max(self._earliest_look, end + self._pause)
        if self._lanes.found(heads, before):
            self._found()
        return self._rest(end)

    def _rest(self, now: float) -> float:
        look = self._earliest_look if self._news else self._next_look
        sweep = self._earliest_sweep if self._hurry else self._next_sweep
        return max(min(look, sweep) - now, 0.005)
