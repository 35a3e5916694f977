"""Scans for jobs behind the watermarks, on the maintenance connection.

There are two kinds of scans, with the same query. A *look-back* starts a little before each lane's watermark, for late
commits. A *sweep* starts at the beginning, for everything else: jobs given back, times in the past, a clock that was
set back. During a long transaction both read index entries that vacuum may not remove, so they are rationed, and the
claimer never waits for them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from pqlite.store.engine import Head
from pqlite.worker.lanes import RATION, Asked, Lanes
from pqlite.worker.supervisor import Untried

LOOK_BACK_EVERY = 1.0
SWEEP_EVERY = 5.0
MAX_IDLE = 10.0
LOOK_BACK = timedelta(seconds=5)
DEADLINE = 10.0
MAX_DEADLINE = 120.0

Scan = Callable[[Asked, float], Awaitable[list[Head]]]
"""Reads the first due job of each lane, from these positions on, within so many seconds."""


class ScanTimer:
    """How often one kind of scan is made, and how long it may take."""

    def __init__(self, every: float, *, min_interval: float = 0.0) -> None:
        self._every = every
        self._min_interval = min_interval
        self._deadline = DEADLINE
        self.seconds = 0.0
        """The duration of the last scan."""
        self.usual = 0.0
        """The shorter duration of the last two scans, which counts for the ration: the machine may have been busy
        during one.
        """
        self.earliest = 0.0
        """When the next scan may begin (time.monotonic)."""

    @property
    def rest(self) -> float:
        """Return the pause between two scans, in seconds."""
        return max(self._every, RATION * self.usual)

    async def scan(self, scan: Scan, starts: Asked) -> list[Head]:
        """Scan. A scan that fails counts with its full duration; after a timeout the next one may take longer."""
        began, failed = time.monotonic(), True
        try:
            heads = await scan(starts, self._deadline)
        except TimeoutError:
            self._deadline = min(2 * self._deadline, MAX_DEADLINE)
            raise
        else:
            self._deadline, failed = DEADLINE, False
            return heads
        finally:
            end = time.monotonic()
            before, self.seconds = self.seconds, end - began
            self.usual = self.seconds if failed else min(before, self.seconds)
            self.earliest = end + max(self._min_interval, RATION * self.usual)


class Scout:
    """While jobs are claimed, looks back every second and sweeps every five; otherwise it sweeps every ten."""

    def __init__(self, *, lanes: Lanes, scan: Scan, found: Callable[[], None]) -> None:
        self._lanes = lanes
        self._scan = scan
        self._found = found
        self._requested = True
        self._sweep_requested = False
        self._pause = LOOK_BACK_EVERY
        self._back = ScanTimer(LOOK_BACK_EVERY, min_interval=LOOK_BACK_EVERY)
        self._sweep = ScanTimer(SWEEP_EVERY)
        self._next_back = self._next_sweep = 0.0

    def request(self, *, everywhere: bool = False) -> bool:
        """Request a scan, because jobs were enqueued or claimed; or a sweep (`everywhere`), because there may be jobs
        far behind the watermarks. Return whether the request is new, so that the scout must be woken.
        """
        new = not self._requested or (everywhere and not self._sweep_requested)
        self._requested = True
        self._sweep_requested = self._sweep_requested or everywhere
        return new

    @property
    def late_commits_within(self) -> float:
        """Return after how many seconds, at most, a job is found that is due up to 5 s behind its lane's watermark."""
        return self._back.rest + self._back.seconds + self._sweep.seconds

    @property
    def anything_within(self) -> float:
        """Return after how many seconds, at most, any due job is found, wherever it is (idle: 10 s)."""
        return self._sweep.rest + self._sweep.seconds + self._back.seconds

    async def step(self) -> float:
        """Scan if it is time to; return how long to pause."""
        now = time.monotonic()
        sweep = now >= self._sweep_at
        if not sweep and now < self._back_at:
            return Untried(self._rest(now))
        requested, sweep_requested = self._requested, self._sweep_requested
        self._requested, self._sweep_requested = False, sweep_requested and not sweep
        before = self._lanes.marks
        try:
            if sweep:
                heads = await self._sweep.scan(self._scan, [])
            else:
                heads = await self._back.scan(self._scan, self._lanes.scan_starts(LOOK_BACK))
        except BaseException:
            self._requested, self._sweep_requested = True, self._sweep_requested or sweep_requested
            raise
        finally:
            end = time.monotonic()
            self._pause = LOOK_BACK_EVERY if requested else min(2 * self._pause, MAX_IDLE)
            if sweep:
                self._next_sweep = end + max(self._sweep.rest, self._pause)
            self._next_back = end + max(self._back.rest, self._pause)
        if self._lanes.found(heads, before, seconds=(self._sweep if sweep else self._back).seconds):
            self._found()
        return self._rest(end)

    @property
    def _sweep_at(self) -> float:
        return self._sweep.earliest if self._sweep_requested else self._next_sweep

    @property
    def _back_at(self) -> float:
        return self._back.earliest if self._requested else self._next_back

    def _rest(self, now: float) -> float:
        return max(min(self._sweep_at, self._back_at) - now, 0.005)
