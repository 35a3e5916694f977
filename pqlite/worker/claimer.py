"""Decides when to claim and how many, and hands what it gets to the executor."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from pqlite.backoff import IdlePollPolicy
from pqlite.errors import LeaseLost, WorkerError
from pqlite.events import ClaimsReleased
from pqlite.events.announcer import Announcer
from pqlite.job import Job
from pqlite.store.engine import Engine, Unknown
from pqlite.worker.lanes import RATION, Lanes
from pqlite.worker.listening import Listening
from pqlite.worker.supervisor import FOREVER, Untried

DISCOVER_EVERY = 1.0
DISCOVERY_SECONDS = 10.0
CHEAP = 0.005
"""A look for lanes that takes less is not rationed."""
ARM_BEYOND = 2.0
STRANGE = 10
"""A registration that was refused so often in a row, and still renews its lease, is in another database."""
AUDIT_EVERY = 30.0
AUDIT_MARGIN = 60.0
AT_SHUTDOWN = timedelta(hours=1)
NOT_AT_ALL = timedelta(days=-1)
CONNECT_SECONDS = 10.0


class Claimer:
    """Claims jobs into free slots, on a connection of its own.

    Busy, it asks the lanes it knows, each behind its watermark, and once a second looks for new ones. Idle, it sleeps
    as its policy says, or until the next job is due, or until it is woken.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        worker_id: str,
        queues: Sequence[str] | None,
        types: Sequence[str] | None,
        versions: Mapping[str, int],
        idle: IdlePollPolicy,
        announce: Announcer,
        lanes: Lanes,
        capacity: Callable[[float], tuple[int, int]],
        held: Callable[[], list[int]],
        accept: Callable[[Sequence[Job]], None],
        lost: Callable[[], None],
        look_everywhere: Callable[[], None],
        hears: Callable[[], bool],
        audit: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._worker_id = worker_id
        self._queues = queues
        self._types = types
        self._versions = versions
        self._idle = idle
        self._announce = announce
        self._capacity = capacity
        self._held = held
        self._accept = accept
        self._lost = lost
        self._look_everywhere = look_everywhere
        self._hears = hears
        self._ask_aside = audit
        self._lanes = lanes
        self._listening = Listening()
        self._hoped = False
        self._refused: str | None = None
        self._refusals = 0
        self._empty_streak = 0
        self._next_discovery = self._earliest_discovery = self._next_audit = self._armed_until = 0.0
        self._patience = DISCOVERY_SECONDS
        self._discovery_seconds = self._usual_seconds = 0.0
        self.round_trip = 0.002
        """How long a claim takes, in seconds: a moving average."""
        self._generation = 0
        self._audited: str | None = None
        self._audits = (time.monotonic(), time.monotonic())
        self._asked: tuple[Unknown, float] | None = None
        self.holder: str | None = None
        """The registration to claim for; None while there is none."""

    def look(self) -> bool:
        """Look for new jobs at the next call: somebody enqueued. Return whether that was heard."""
        heard = self._listening.hear()
        if heard:
            self._empty_streak = 0
        return heard

    @property
    def new_lanes_within(self) -> float:
        """Return after how many seconds, at most, a lane is seen that nobody has seen before."""
        return max(DISCOVER_EVERY, self._rest()) + self._discovery_seconds

    async def once(self) -> float:
        """Claim once; return how long to pause."""
        holder = self.holder
        if holder is None:
            return Untried(FOREVER)
        try:
            await self._audit(holder)
            room, prefetch = self._capacity(self.round_trip)
            if room + prefetch <= 0:
                return Untried(AUDIT_EVERY)
            next_due = None if self._hopes() else await self._discover()
            claimed = await self._claim(holder, room, prefetch)
        except LeaseLost as error:
            # The sentinel decides: it may have registered anew by now, under a name that this claim did not know.
            self._lost()
            self._refusals = 1 if holder != self._refused else self._refusals + 1
            self._refused = holder
            if self._refusals >= STRANGE:
                raise WorkerError(
                    "The worker is registered, but not where its jobs are: does listen_dsn lead to another database?"
                ) from error
            return 1.0
        self._refused = None
        if claimed:
            self._empty_streak = 0
            self._listening.found()
            return 0.0
        if room <= 0:
            return AUDIT_EVERY  # woken when a slot is free
        if self._lanes.any:
            return 0.0  # others have not been asked yet
        if next_due is None:
            # Look for lanes before sleeping; if it is too early for that, wait until it is time.
            wait = max(self._earliest_discovery - time.monotonic(), 0.0)
            if wait > 0:
                await self._arm(wait)
            return wait
        return await self._sleep(next_due)

    def _hopes(self) -> bool:
        """Return whether to ask the lanes that served last before looking around: somebody has just enqueued. Not twice
        in a row: who wakes the worker all the time must not keep it from finding new lanes.
        """
        woken = self._listening.answer()
        if woken:
            self._lanes.hope()
        self._hoped = woken and self._lanes.any and not self._hoped
        return self._hoped

    async def _claim(self, holder: str, room: int, prefetch: int) -> int:
        asked = self._lanes.ask(prefetching=room <= 0)
        prefetch = 0 if self._lanes.any_once(asked) else prefetch
        began = time.perf_counter()
        claimed, cut = await self._engine.claim(
            holder,
            room,
            prefetch=prefetch,
            suspect=not self._hoped,
            queues=self._queues,
            types=self._types,
            lanes=asked,
            versions=self._versions,
        )
        seconds = time.perf_counter() - began
        self.round_trip += 0.2 * (seconds - self.round_trip)
        jobs = [job for _, batch in claimed for job in batch]
        # A suspect, or a job that may start only once, holds back what would only wait: then no lane has run dry.
        held_back = cut or (room <= 0 and not jobs)
        self._lanes.claimed(asked, len(jobs) if held_back else room + prefetch, claimed, seconds=seconds)
        if jobs:
            self._accept(jobs)
        return len(jobs)

    async def _discover(self) -> float | None:
        """Look for lanes if it is time to, or if there is nothing to ask; return seconds until the first job that is
        not due yet (FOREVER: none), None if it did not look.

        Lanes that are known are looked at behind their watermark, and only the gaps between them are scanned.
        """
        began = time.monotonic()
        if began < (self._next_discovery if self._lanes.any else self._earliest_discovery):
            return None
        known = self._lanes.known()
        try:
            heads = await self._engine.lanes(
                self._queues, self._types, known, versions=self._versions, deadline=self._patience
            )
        except TimeoutError:
            # A worker that knows no lane yet has nothing else to go on, and asks again with more patience.
            self._patience = min(2 * self._patience, 12 * DISCOVERY_SECONDS)
            raise
        self._patience = DISCOVERY_SECONDS
        end = time.monotonic()
        before, self._discovery_seconds = self._discovery_seconds, end - began
        # The machine may have been busy during one look, such as the first: two say how long they take.
        self._usual_seconds = min(before, self._discovery_seconds)
        self._earliest_discovery = end + self._rest()
        self._next_discovery = max(end + DISCOVER_EVERY, self._earliest_discovery)
        self._lanes.found(heads, seconds=self._discovery_seconds)
        return max(min((head.due_in for head in heads if head.due_in > 0), default=FOREVER), 0.005)

    def _rest(self) -> float:
        """Return how long to leave it alone after the latest look for lanes."""
        return RATION * self._usual_seconds if self._usual_seconds > CHEAP else 0.0

    async def _sleep(self, next_due: float) -> float:
        """Ask to be notified; return how long to sleep, or 0 to look once more.

        What was enqueued before the asking notified nobody, hence the second look. While it sleeps on, each asking
        outlasts the next look, so that there is no gap.
        """
        pause = min(max(float(self._idle.next_sleep(self._empty_streak)), 0.0), FOREVER)
        if deaf := self._listening.found_nothing():
            return min(pause, next_due, deaf)
        armed_until = self._armed_until
        await self._arm(pause)
        if time.monotonic() > armed_until and self._armed_until:
            return 0.0  # before the answer there may have been a gap
        self._empty_streak += 1
        return min(pause, next_due)

    async def _arm(self, pause: float) -> None:
        """Ask to be notified for somewhat longer than a pause; if that would be in vain, only what the time is."""
        hears, began = self._hears(), time.monotonic()
        duration = timedelta(seconds=pause + ARM_BEYOND) if hears else NOT_AT_ALL
        now = await self._engine.arm(duration, self._queues)
        # By the time before the question: the answer may take long.
        self._armed_until = began + pause + ARM_BEYOND if hears else 0.0
        if self._lanes.ahead_of(now):
            self._look_everywhere()

    async def _audit(self, holder: str) -> None:
        """See to it that what this worker holds by name and does not know of is given back: a claim's answer was lost.

        Between two claims, so that every answer that came is known. At once after a reconnect; and now and then aside,
        by `audit_aside`, which may take its time: a claim given up at its deadline may still commit later.
        """
        link = self._engine.link
        if not link.connected:
            await link.connect(CONNECT_SECONDS)
        now = time.monotonic()
        reconnected = self._generation != link.generation
        if reconnected or holder != self._audited:
            self._asked = None  # it may have been asked of another server, whose clock was ahead
        if reconnected:
            # Another connection may mean another server, whose clock or data is behind, and which was asked nothing.
            self._look_everywhere()
            self._armed_until = 0.0
        since = timedelta(seconds=now - self._audits[0] + AUDIT_MARGIN)
        if holder != self._audited:
            self._audits = (now, now)  # a new name: nothing was claimed by it
        elif reconnected:
            await self.give_back_unknown(holder, since)
            self._audits = (self._audits[1], now)
        elif now >= self._next_audit:
            self._asked = await self._unknown(holder, since), now
            self._ask_aside()
        else:
            return
        self._audited, self._generation = holder, link.generation
        self._next_audit = now + AUDIT_EVERY

    async def audit_aside(self, engine: Engine) -> None:
        """Make the audit that is due, if there is one, on another connection. One that fails stays due."""
        if (asked := self._asked) is None:
            return
        unknown, at = asked
        await self.give_back(engine, unknown)
        if self._asked is asked:
            self._asked = None
            self._audits = (self._audits[1], at)

    async def _unknown(self, holder: str, since: timedelta) -> Unknown:
        known = self._held()
        return Unknown(holder, known, since, until=await self._engine.arm(NOT_AT_ALL))

    async def give_back_unknown(self, holder: str, since: timedelta = AT_SHUTDOWN) -> None:
        """Release what the worker claimed in that time and does not know of. Not while a claim is under way."""
        await self.give_back(self._engine, await self._unknown(holder, since))

    async def give_back(self, engine: Engine, unknown: Unknown) -> None:
        """Release what the worker claimed and does not know of."""
        released = await engine.disown(unknown)
        if released:
            self._look_everywhere()
            self._announce(ClaimsReleased(self._worker_id, released))
