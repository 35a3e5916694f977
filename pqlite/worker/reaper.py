"""Takes over the jobs of dead workers, and cancels jobs that have expired. Every worker may do so at any time, without
a leader: the SQL allows that.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from pqlite.events import JobsExpired, JobsTakenOver
from pqlite.events.announcer import Announcer
from pqlite.job import TakenOver
from pqlite.store.link import sqlstate
from pqlite.worker.supervisor import FOREVER, Untried

MAX_PAUSE = 5.0
MIN_PAUSE = 0.25
BATCH = 500
"""Most jobs taken over by one statement."""
QUERY_CANCELED = "57014"


class Reaper:
    """Checks at the earliest time at which another worker can count as dead, and at least every few seconds.

    Every `stale_every` it also takes over RUNNING jobs that no registered worker owns and that are old enough.
    """

    def __init__(
        self,
        *,
        reap: Callable[[str, int], Awaitable[list[TakenOver]]],
        reap_stale: Callable[[timedelta], Awaitable[list[TakenOver]]],
        next_death: Callable[[str], Awaitable[float | None]],
        expire: Callable[[], Awaitable[list[int]]],
        worker_id: str,
        stale_every: timedelta,
        stale_after: timedelta,
        announce: Announcer,
        made_ready: Callable[[], None],
    ) -> None:
        self._reap = reap
        self._reap_stale = reap_stale
        self._next_death = next_death
        self._expire = expire
        self._worker_id = worker_id
        self._stale_every = stale_every.total_seconds()
        self._stale_after = stale_after
        self._announce = announce
        self._made_ready = made_ready
        self._next_stale = time.monotonic() + self._stale_every
        self._batch = BATCH
        self.holder: str | None = None
        """This worker's registration; None while there is none, and then nothing is taken over."""

    async def step(self) -> float:
        """Check once; return how long to pause."""
        if self.holder is None:
            return Untried(FOREVER)
        death = await self._next_death(self.holder)
        taken = [] if death is None else await self._take_over(self.holder)
        if expired := await self._expire():
            self._announce(JobsExpired(self._worker_id, expired))
        if time.monotonic() >= self._next_stale:
            taken += await self._reap_stale(self._stale_after)
            self._next_stale = time.monotonic() + self._stale_every
        if taken:
            self._announce(JobsTakenOver(self._worker_id, taken))
            self._made_ready()
        if taken or expired:
            return MIN_PAUSE  # there may be more
        return min(max(MAX_PAUSE if death is None else death, MIN_PAUSE), MAX_PAUSE, self._stale_every)

    async def _take_over(self, judge: str) -> list[TakenOver]:
        """Take over one batch. After a timeout, which may have changed nothing, the next batch is smaller."""
        try:
            taken = await self._reap(judge, self._batch)
        except Exception as error:
            if isinstance(error, TimeoutError) or sqlstate(error) == QUERY_CANCELED:
                self._batch = max(self._batch // 4, 1)
            raise
        self._batch = min(2 * self._batch, BATCH)
        return taken
