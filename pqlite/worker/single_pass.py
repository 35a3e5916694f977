"""The claimer of `run_once`: it claims due jobs, and those that become due by them, until there are none."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from pqlite.errors import LeaseLost
from pqlite.job import Job
from pqlite.store.engine import Engine
from pqlite.worker.lanes import MAX_LANES, place_of
from pqlite.worker.supervisor import FOREVER

SETTLING = 0.005
"""How long to wait for outcomes that are being written: a retry may be due at once."""
MEANWHILE = 0.1
"""How often to claim while attempts run: an attempt may wait for a job that another process has enqueued, or for a
retry that was written just after the last claim.
"""
AWAY_SECONDS = 60.0
"""How long the database may be away, or refuse the last outcomes, before the pass ends with an error."""


class SinglePass:
    """Replaces the claimer in a run that ends by itself. `over` is called when nothing is left to do, or when the
    database was away for too long.
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
        lease_lost: Callable[[], None],
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
        self._lease_lost = lease_lost
        self._over = over
        self._away_since: float | None = None
        self.attempts = 0
        """How many attempts have begun."""
        self.error: Exception | None = None
        """Why the pass ended early; None if it did not."""

    async def step(self) -> float:
        """Claim once; return how long to pause."""
        holder = self._holder()
        if holder is None:
            self._count_absence(LeaseLost("The worker's registration was lost."))
            return 1.0  # or until the worker is registered
        if (room := self._room()) <= 0:
            if not self._undelivered():
                return FOREVER  # until an attempt has ended
            self._count_refusal(self._refused())
            return MEANWHILE  # there may be no room because too many outcomes wait to be written
        # Read before the claim: an attempt may enqueue a job after it, end, and have its outcome written meanwhile.
        busy = self._running() or self._undelivered()
        try:
            if self._unsure:  # the answer to the last claim was lost, perhaps with jobs
                await self._give_back(holder)
            self._unsure = True
            jobs = await self._claim(holder, room)
            self._unsure = False
        except LeaseLost as error:
            self._lease_lost()
            self._count_absence(error)  # it may be registered in another database, and so keep its registration
            return 1.0
        except Exception as error:
            self._count_absence(error)
            raise
        refused = self._refused() if self._undelivered() else None
        self._count_refusal(None if jobs else refused)
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

    def _count_refusal(self, refused: Exception | None) -> None:
        """Count a refused outcome as absence of the database, unless attempts run: those may take long."""
        if refused is None or self._running():
            self._away_since = None
        else:
            self._count_absence(refused)

    def _count_absence(self, error: Exception) -> None:
        """End the pass if the database has been away for too long."""
        now = time.monotonic()
        self._away_since = self._away_since or now
        if now - self._away_since >= AWAY_SECONDS:
            self.error = error
            self._over()

    async def _claim(self, holder: str, room: int) -> list[Job]:
        heads = await self._engine.lanes(self._queues, self._types, versions=self._versions)
        claimed, _ = await self._engine.claim(
            holder,
            room,
            suspect=True,
            queues=self._queues,
            types=self._types,
            lanes=[place_of(head) for head in heads if head.due_in <= 0][:MAX_LANES],
            versions=self._versions,
        )
        return [job for _, jobs in claimed for job in jobs]
