"""Gives back what dead workers held. Any process may, at any time: the SQL guards itself, there is no leader."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from pqlite.events import JobsTakenOver
from pqlite.events.announcer import Announcer
from pqlite.job import TakenOver
from pqlite.store.link import sqlstate
from pqlite.worker.supervisor import FOREVER, Untried

LONGEST_LOOK = 5.0
SHORTEST_LOOK = 0.25
BATCH = 500
"""Most jobs taken over by one statement."""
QUERY_CANCELED = "57014"


class Reaper:
    """Looks when another worker could be dead at the earliest, and every few seconds in any case.

    Now and then (`stale_every`) also takes over RUNNING jobs that no registered worker owns, by age.
    """

    def __init__(
        self,
        *,
        reap: Callable[[str, int], Awaitable[list[TakenOver]]],
        reap_stale: Callable[[timedelta], Awaitable[list[TakenOver]]],
        next_death: Callable[[str], Awaitable[float | None]],
        worker_id: str,
        stale_every: timedelta,
        stale_after: timedelta,
        announce: Announcer,
        given_back: Callable[[], None],
    ) -> None:
        self._reap = reap
        self._reap_stale = reap_stale
        self._next_death = next_death
        self._worker_id = worker_id
        self._stale_every = stale_every.total_seconds()
        self._stale_after = stale_after
        self._announce = announce
        self._given_back = given_back
        self._next_stale = time.monotonic() + self._stale_every
        self._batch = BATCH
        self.holder: str | None = None
        """The registration that judges; None while there is none."""

    async def once(self) -> float:
        """Look once; return how long to pause."""
        if self.holder is None:
            return Untried(FOREVER)
        death = await self._next_death(self.holder)
        taken = [] if death is None else await self._take_over(self.holder)
        if time.monotonic() >= self._next_stale:
            taken += await self._reap_stale(self._stale_after)
            self._next_stale = time.monotonic() + self._stale_every
        if taken:
            self._announce(JobsTakenOver(self._worker_id, taken))
            self._given_back()
            return SHORTEST_LOOK  # there may be more
        return min(max(LONGEST_LOOK if death is None else death, SHORTEST_LOOK), LONGEST_LOOK, self._stale_every)

    async def _take_over(self, judge: str) -> list[TakenOver]:
        """Take over one batch. After one that took too long, which may have changed nothing, the next is smaller."""
        try:
            taken = await self._reap(judge, self._batch)
        except Exception as error:
            if isinstance(error, TimeoutError) or sqlstate(error) == QUERY_CANCELED:
                self._batch = max(self._batch // 4, 1)
            raise
        self._batch = min(2 * self._batch, BATCH)
        return taken
