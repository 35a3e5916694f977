"""Jobs that are claimed before a slot is free, so that short jobs need not wait for a round trip each."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from pqlite.job import Job

MAX_WAIT_SECONDS = 1.0
"""A job that has not started after so many seconds is given back, without counting an attempt ..."""
PAUSE_AFTER = 10.0
"""... and then nothing is prefetched for so long."""
MAX_JOBS = 500
SHORT = 0.1


def prefetch_target(concurrency: int, pace: float | None, round_trip: float) -> int:
    """Return how many jobs should wait in memory if an attempt takes `pace` seconds: as many as start during two round
    trips to the database, and none if attempts take longer than a tenth of a second.
    """
    if pace is None or pace > SHORT:
        return 0
    rate = concurrency / max(pace, 1e-5)
    return min(int(rate * 2 * round_trip), int(rate * SHORT), MAX_JOBS)


class PrefetchQueue:
    """Claimed jobs in the order in which they will start. `give_back` is called with those that waited too long."""

    def __init__(self, give_back: Callable[[Job], None]) -> None:
        self._give_back = give_back
        self._waiting: OrderedDict[int, tuple[float, Job]] = OrderedDict()
        self._watching = False
        self._expired_at = -PAUSE_AFTER
        self.low_water = 0
        """More should be claimed when no more than so many are left."""

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    @property
    def ids(self) -> list[int]:
        """Return the ids of the jobs that wait."""
        return list(self._waiting)

    def get(self, job_id: int) -> Job | None:
        """Return a job if it waits here."""
        entry = self._waiting.get(job_id)
        return None if entry is None else entry[1]

    def add(self, job: Job, now: float) -> None:
        """Let a job wait, since `now` (time.monotonic)."""
        self._waiting[job.id] = now, job
        if not self._watching:
            self._watching = True
            asyncio.get_running_loop().call_later(MAX_WAIT_SECONDS, self._watch)

    def take(self) -> Job:
        """Take the first job out."""
        return self._waiting.popitem(last=False)[1][1]

    def remove(self, job_id: int) -> None:
        """Take one job out."""
        del self._waiting[job_id]

    def clear(self) -> None:
        """Give everything back."""
        while self._waiting:
            self._give_back(self.take())

    def room(self, concurrency: int, pace: float | None, round_trip: float, last_end: float) -> int:
        """Return how many more jobs to prefetch: none while half of the target waits; and after one waited too long,
        none for a while, and none before an attempt has ended (the latest ended at `last_end`).
        """
        paused = last_end < self._expired_at or time.monotonic() - self._expired_at < PAUSE_AFTER
        target = 0 if paused else prefetch_target(concurrency, pace, round_trip)
        self.low_water = target // 2
        return target - len(self._waiting) if len(self._waiting) <= self.low_water else 0

    def _watch(self) -> None:
        now = time.monotonic()
        while self._waiting:
            since, _ = next(iter(self._waiting.values()))
            if now - since < MAX_WAIT_SECONDS:
                asyncio.get_running_loop().call_later(MAX_WAIT_SECONDS - (now - since), self._watch)
                return
            self._expired_at = now
            self._give_back(self.take())
        self._watching = False
