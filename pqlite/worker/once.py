"""One pass instead of a life: claims what is due, and what that makes due, until nothing is."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from pqlite.errors import LeaseLost
from pqlite.job import Job
from pqlite.store.engine import Engine
from pqlite.worker.lanes import MOST, place_of
from pqlite.worker.supervisor import FOREVER

SETTLING = 0.005
"""How long to wait for outcomes that are being written: a retry may be due at once."""
MEANWHILE = 0.1
"""How often to look while attempts run: what one of them waits for may have been enqueued by anybody, or be a retry
that was written just after the latest look.
"""
AWAY_SECONDS = 60.0
"""How long the database may be away, or refuse what is left to be written, before the pass ends: who started it may
wait for it, or start another.
"""


class Once:
    """Takes the claimer's place in a run that is to end by itself. `over` is called when nothing is left to do, or
    nothing can be done any more.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        queues: Sequence[str] | None,
        types: Sequence[str] | None,
        versions: Mapping[str, int],
        holder: Callable[[], str | None],
        room: Callable[[], int],
        running: Callable[[], bool],
        undelivered: Callable[[], bool],
        refused: Callable[[], Exception | None],
        accept: Callable[[Sequence[Job]], None],
        give_back: Callable[[str], Awaitable[None]],
        lost: Callable[[], None],
        over: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._queues = queues
        self._types = types
        self._versions = versions
        self._holder = holder
        self._room = room
        self._running = running
        self._undelivered = undelivered
        self._refused = refused
        self._accept = accept
        self._give_back = give_back
        self._unsure = False
        self._lost = lost
        self._over = over
        self._away_since: float | None = None
        self.attempts = 0
        """How many have begun."""
        self.lost: Exception | None = None
        """Why the pass has ended before its time."""

    async def once(self) -> float:
        """Claim once; return how long to pause."""
        holder = self._holder()
        if holder is None:
            self._miss(LeaseLost("The worker's registration was lost."))
            return 1.0  # or until the worker is registered
        if (room := self._room()) <= 0:
            if not self._undelivered():
                return FOREVER  # until an attempt has ended
            self._heed(self._refused())
            return MEANWHILE  # so many outcomes may wait to be written that there is no room for more
        # As of before the look: an attempt may enqueue after it, and end, and its outcome be written, meanwhile.
        busy = self._running() or self._undelivered()
        try:
            if self._unsure:  # the latest claim's answer was lost, and perhaps jobs with it
                await self._give_back(holder)
            self._unsure = True
            jobs = await self._claim(holder, room)
            self._unsure = False
        except LeaseLost as error:
            self._lost()
            self._miss(error)  # it may be registered in another database, where nobody declares it dead
            return 1.0
        except Exception as error:
            self._miss(error)
            raise
        refused = self._refused() if self._undelivered() else None
        self._heed(None if jobs else refused)
        if jobs:
            self.attempts += len(jobs)
            self._accept(jobs)
            return 0.0
        if not busy:
            self._over()
            return FOREVER
        if self._undelivered():
            return SETTLING if refused is None else MEANWHILE
        return MEANWHILE if self._running() else 0.0

    def _heed(self, refused: Exception | None) -> None:
        """Count refusals as the database's absence, but while attempts run, which may last."""
        if refused is None or self._running():
            self._away_since = None
        else:
            self._miss(refused)

    def _miss(self, error: Exception) -> None:
        """End the pass if the database has been away for too long."""
        now = time.monotonic()
        self._away_since = self._away_since or now
        if now - self._away_since >= AWAY_SECONDS:
            self.lost = error
            self._over()

    async def _claim(self, holder: str, room: int) -> list[Job]:
        heads = await self._engine.lanes(self._queues, self._types, versions=self._versions)
        claimed, _ = await self._engine.claim(
            holder,
            room,
            suspect=True,
            queues=self._queues,
            types=self._types,
            lanes=[place_of(head) for head in heads if head.due_in <= 0][:MOST],
            versions=self._versions,
        )
        return [job for _, jobs in claimed for job in jobs]
