"""Looks for jobs behind the watermarks, on a connection of its own.

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
from pqlite.worker.lanes import RATION, Asked, Lanes
from pqlite.worker.supervisor import Untried

LOOK_EVERY = 1.0
SWEEP_EVERY = 5.0
IDLE_AT_MOST = 10.0
LOOK_BACK = timedelta(seconds=5)
PATIENCE = 10.0
PATIENCE_AT_MOST = 120.0

Look = Callable[[Asked, float], Awaitable[list[Head]]]
"""Looks at lanes from these places on, within so many seconds."""


class Pace:
    """How often one kind of look is made, and how long it may take."""

    def __init__(self, every: float, *, in_a_hurry: float = 0.0) -> None:
        self._every = every
        self._in_a_hurry = in_a_hurry
        self._patience = PATIENCE
        self.seconds = 0.0
        """How long the latest took."""
        self.usual = 0.0
        """How long the shorter of the latest two took: what rations. The machine may have been busy during one."""
        self.earliest = 0.0
        """When the next may be made (time.monotonic)."""

    @property
    def rest(self) -> float:
        """Return how long to wait after one before the next."""
        return max(self._every, RATION * self.usual)

    async def look(self, look: Look, known: Asked) -> list[Head]:
        """Make one. One that fails counts as one that took as long, and is given more time the next time."""
        began, failed = time.monotonic(), True
        try:
            heads = await look(known, self._patience)
        except TimeoutError:
            self._patience = min(2 * self._patience, PATIENCE_AT_MOST)
            raise
        else:
            self._patience, failed = PATIENCE, False
            return heads
        finally:
            end = time.monotonic()
            before, self.seconds = self.seconds, end - began
            self.usual = self.seconds if failed else min(before, self.seconds)
            self.earliest = end + max(self._in_a_hurry, RATION * self.usual)


class Scout:
    """Looks back once a second and sweeps every five while there are news; idle, it sweeps every ten."""

    def __init__(self, *, lanes: Lanes, look: Look, found: Callable[[], None]) -> None:
        self._lanes = lanes
        self._look = look
        self._found = found
        self._news = True
        self._hurry = False
        self._pause = LOOK_EVERY
        self._back = Pace(LOOK_EVERY, in_a_hurry=LOOK_EVERY)
        self._sweep = Pace(SWEEP_EVERY)
        self._next_back = self._next_sweep = 0.0

    def stir(self, *, everywhere: bool = False) -> bool:
        """Look soon: jobs come and go; or (everywhere) some were given back, and may be anywhere. Return whether that
        changes anything, so that the scout should be woken.
        """
        changes = not self._news or (everywhere and not self._hurry)
        self._news = True
        self._hurry = self._hurry or everywhere
        return changes

    @property
    def late_commits_within(self) -> float:
        """Return after how many seconds, at most, a job is seen that is due up to 5 s behind its lane's watermark."""
        return self._back.rest + self._back.seconds + self._sweep.seconds

    @property
    def anything_within(self) -> float:
        """Return after how many seconds, at most, any READY job is seen, wherever it is (idle: 10 s)."""
        return self._sweep.rest + self._sweep.seconds + self._back.seconds

    async def once(self) -> float:
        """Look if it is time to; return how long to pause."""
        now = time.monotonic()
        sweep = now >= self._sweep_at
        if not sweep and now < self._back_at:
            return Untried(self._rest(now))
        news, hurry = self._news, self._hurry
        self._news, self._hurry = False, hurry and not sweep
        before = self._lanes.marks
        try:
            if sweep:
                heads = await self._sweep.look(self._look, [])
            else:
                heads = await self._back.look(self._look, self._lanes.known(LOOK_BACK))
        except BaseException:
            self._news, self._hurry = True, self._hurry or hurry
            raise
        finally:
            end = time.monotonic()
            self._pause = LOOK_EVERY if news else min(2 * self._pause, IDLE_AT_MOST)
            if sweep:
                self._next_sweep = end + max(self._sweep.rest, self._pause)
            self._next_back = end + max(self._back.rest, self._pause)
        if self._lanes.found(heads, before, seconds=(self._sweep if sweep else self._back).seconds):
            self._found()
        return self._rest(end)

    @property
    def _sweep_at(self) -> float:
        return self._sweep.earliest if self._hurry else self._next_sweep

    @property
    def _back_at(self) -> float:
        return self._back.earliest if self._news else self._next_back

    def _rest(self, now: float) -> float:
        return max(min(self._sweep_at, self._back_at) - now, 0.005)
