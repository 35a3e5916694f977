"""Decides when to claim and how many, and hands what it gets to the executor."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from pqlite.backoff import IdlePollPolicy
from pqlite.errors import LeaseLost
from pqlite.events import Announcer, ClaimsReleased
from pqlite.job import Job
from pqlite.store.engine import Engine
from pqlite.worker.lanes import Lanes
from pqlite.worker.supervisor import FOREVER

DISCOVER_EVERY = 1.0
ARM_BEYOND = 2.0
AUDIT_EVERY = 30.0
AUDIT_WINDOW = timedelta(seconds=90)


class Claimer:
    """Claims jobs into free slots, on a connection of its own.

    Busy, it asks the lanes it knows, and once a second looks for new ones. Idle, it sleeps as its policy says, or
    until the next job is due, or until it is woken.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        worker_id: str,
        queues: Sequence[str] | None,
        types: Sequence[str] | None,
        idle: IdlePollPolicy,
        announce: Announcer,
        room: Callable[[], int],
        suspect_runs: Callable[[], bool],
        known: Callable[[], list[int]],
        accept: Callable[[Job], None],
        lost: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._worker_id = worker_id
        self._queues = queues
        self._types = types
        self._idle = idle
        self._announce = announce
        self._room = room
        self._suspect_runs = suspect_runs
        self._known = known
        self._accept = accept
        self._lost = lost
        self._lanes = Lanes()
        self._empty_streak = 0
        self._next_discovery = self._next_audit = self._armed_until = 0.0
        self._generation = 0
        self.holder: str | None = None
        """The registration to claim for; None while there is none."""

    def look(self) -> None:
        """Look for new jobs at the next call: somebody enqueued, or gave jobs back."""
        self._next_discovery = 0.0
        self._empty_streak = 0

    async def once(self) -> float:
        """Claim once; return how long to pause."""
        holder, room = self.holder, self._room()
        if holder is None or room <= 0:
            return FOREVER
        try:
            await self._audit(holder)
            next_due = await self._discover()
            claimed = await self._claim(holder, room)
        except LeaseLost:
            self.holder = None
            self._lost()
            return FOREVER
        if claimed:
            self._empty_streak = 0
            return 0.0
        if self._lanes.any or next_due is None:
            # Look for other lanes before sleeping; pause a little where another worker was quicker in the known ones.
            self._next_discovery = 0.0
            return 0.0 if next_due is None else 0.01
        return await self._sleep(next_due)

    async def _claim(self, holder: str, room: int) -> int:
        asked = self._lanes.ask()
        suspect = not self._suspect_runs()
        jobs = await self._engine.claim(
            holder, room, suspect=suspect, queues=self._queues, types=self._types, lanes=asked
        )
        self._lanes.claimed(asked, room, jobs)
        for _, job in jobs:
            self._accept(job)
        return len(jobs)

    async def _discover(self) -> float | None:
        """Look for lanes if it is time to; return seconds until the first job that is not due yet (FOREVER: none),
        None if it was not time.
        """
        now = time.monotonic()
        if now < self._next_discovery:
            return None
        self._next_discovery = now + DISCOVER_EVERY
        heads = await self._engine.lanes(self._queues, self._types)
        self._lanes.found(heads)
        return max(min((head.due_in for head in heads if head.due_in > 0), default=FOREVER), 0.005)

    async def _sleep(self, next_due: float) -> float:
        """Ask to be notified; return how long to sleep, or 0 to look once more.

        What was enqueued before the asking notified nobody, hence the second look. While it sleeps on, each asking
        outlasts the next look, so that there is no gap.
        """
        pause = self._idle.next_sleep(self._empty_streak + 1)
        lapsed = time.monotonic() > self._armed_until
        self._armed_until = time.monotonic() + pause + ARM_BEYOND
        await self._engine.arm(timedelta(seconds=pause + ARM_BEYOND))
        self._next_discovery = 0.0
        if lapsed:
            return 0.0
        self._empty_streak += 1
        return min(pause, next_due)

    async def _audit(self, holder: str) -> None:
        """Give back what this worker holds by name and does not know of: claims whose answer was lost.

        Between two claims, so that every answer that came is known. After each reconnect, and now and then: a claim
        given up at its deadline may still commit later.
        """
        now = time.monotonic()
        if self._generation == self._engine.link.generation and now < self._next_audit:
            return
        released = await self._engine.disown(holder, self._known(), AUDIT_WINDOW)
        self._generation, self._next_audit = self._engine.link.generation, now + AUDIT_EVERY
        if released:
            self._lanes.rewind()
            self.look()
            self._announce(ClaimsReleased(self._worker_id, [job_id for job_id, _ in released]))
