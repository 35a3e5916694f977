"""Decides when to claim jobs and how many, and passes them to the executor."""

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
from pqlite.worker.supervisor import FOREVER, Untried
from pqlite.worker.wakeups import Wakeups

DISCOVER_EVERY = 1.0
DISCOVERY_SECONDS = 10.0
CHEAP = 0.005
"""A scan that takes less time, in seconds, is not rationed."""
ARM_MARGIN = 2.0
MAX_REFUSALS = 10
"""A registration that renews its lease, and whose claims were refused so often in a row, is in another database."""
AUDIT_EVERY = 30.0
AUDIT_MARGIN = 60.0
AT_SHUTDOWN = timedelta(hours=1)
NOT_ARMED = timedelta(days=-1)
CONNECT_SECONDS = 10.0


class Claimer:
    """Claims jobs for free slots, on a connection of its own.

    While there are jobs, it claims from the active lanes, each from its watermark on, and scans for new lanes every
    second. While there are none, it sleeps as its policy says, or until the next job is due or it is woken.
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
        lease_lost: Callable[[], None],
        rescan: Callable[[], None],
        listens: Callable[[], bool],
        start_audit: Callable[[], None],
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
        self._lease_lost = lease_lost
        self._rescan = rescan
        self._listens = listens
        self._start_audit = start_audit
        self._lanes = lanes
        self._wakeups = Wakeups()
        self._skipped_scan = False
        self._refused: str | None = None
        self._refusals = 0
        self._empty_streak = 0
        self._next_discovery = self._earliest_discovery = self._next_audit = self._armed_until = 0.0
        self._discovery_deadline = DISCOVERY_SECONDS
        self._discovery_seconds = self._usual_seconds = 0.0
        self.round_trip = 0.002
        """The duration of a claim in seconds: a moving average."""
        self._generation = 0
        self._audited: str | None = None
        self._audits = (time.monotonic(), time.monotonic())
        self._pending_audit: tuple[Unknown, float] | None = None
        self.holder: str | None = None
        """The registration to claim for; None while there is none."""

    def wake_up(self) -> bool:
        """Record that jobs were enqueued, for the next step; return False if such wake-ups are ignored for now."""
        accepted = self._wakeups.receive()
        if accepted:
            self._empty_streak = 0
        return accepted

    @property
    def new_lanes_within(self) -> float:
        """Return after how many seconds, at most, a busy worker finds a new lane."""
        return max(DISCOVER_EVERY, self._min_interval()) + self._discovery_seconds

    async def step(self) -> float:
        """Claim once; return how long to pause."""
        holder = self.holder
        if holder is None:
            return Untried(FOREVER)
        try:
            await self._audit(holder)
            room, prefetch = self._capacity(self.round_trip)
            if room + prefetch <= 0:
                return Untried(AUDIT_EVERY)
            next_due = None if self._skip_scan() else await self._discover()
            claimed = await self._claim(holder, room, prefetch)
        except LeaseLost as error:
            # The sentinel checks it; it may have registered again meanwhile, under another name than this claim used.
            self._lease_lost()
            self._refusals = 1 if holder != self._refused else self._refusals + 1
            self._refused = holder
            if self._refusals >= MAX_REFUSALS:
                raise WorkerError(
                    "The worker is registered, but not where its jobs are: does listen_dsn lead to another database?"
                ) from error
            return 1.0
        self._refused = None
        if claimed:
            self._empty_streak = 0
            self._wakeups.found()
            return 0.0
        if room <= 0:
            return AUDIT_EVERY  # woken when a slot is free
        if self._lanes.any:
            return 0.0  # there are more active lanes
        if next_due is None:
            # Scan before sleeping; if the ration does not allow it yet, wait until it does.
            wait = max(self._earliest_discovery - time.monotonic(), 0.0)
            if wait > 0:
                await self._arm(wait)
            return wait
        return await self._sleep(next_due)

    def _skip_scan(self) -> bool:
        """Return whether to claim from the most recent lanes without a scan, because a job was just enqueued.

        Not twice in a row: otherwise frequent wake-ups would keep the worker from finding new lanes.
        """
        woken = self._wakeups.take()
        if woken:
            self._lanes.reactivate_recent()
        self._skipped_scan = woken and self._lanes.any and not self._skipped_scan
        return self._skipped_scan

    async def _claim(self, holder: str, room: int, prefetch: int) -> int:
        asked = self._lanes.to_claim(prefetching=room <= 0)
        prefetch = 0 if self._lanes.any_single_start(asked) else prefetch
        began = time.perf_counter()
        claimed, cut = await self._engine.claim(
            holder,
            room,
            prefetch=prefetch,
            suspect=not self._skipped_scan,
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
        """Scan for lanes if it is time to, or if no lane is active; return the seconds until the next job is due
        (FOREVER: there is none), or None if there was no scan.

        Lanes with many claims are read from their watermarks on.
        """
        began = time.monotonic()
        if began < (self._next_discovery if self._lanes.any else self._earliest_discovery):
            return None
        known = self._lanes.scan_starts()
        try:
            heads = await self._engine.lanes(
                self._queues, self._types, known, versions=self._versions, deadline=self._discovery_deadline
            )
        except TimeoutError:
            # A worker without lanes depends on this scan, so the next one gets more time.
            self._discovery_deadline = min(2 * self._discovery_deadline, 12 * DISCOVERY_SECONDS)
            raise
        self._discovery_deadline = DISCOVERY_SECONDS
        end = time.monotonic()
        before, self._discovery_seconds = self._discovery_seconds, end - began
        # The faster of two scans counts: the machine may have been busy during one, such as the first.
        self._usual_seconds = min(before, self._discovery_seconds)
        self._earliest_discovery = end + self._min_interval()
        self._next_discovery = max(end + DISCOVER_EVERY, self._earliest_discovery)
        self._lanes.found(heads, seconds=self._discovery_seconds)
        return max(min((head.due_in for head in heads if head.due_in > 0), default=FOREVER), 0.005)

    def _min_interval(self) -> float:
        """Return the minimum pause after the last scan, in seconds."""
        return RATION * self._usual_seconds if self._usual_seconds > CHEAP else 0.0

    async def _sleep(self, next_due: float) -> float:
        """Arm notifications; return how long to sleep, or 0 to claim again at once.

        A job enqueued before the worker was armed sent no notification, so the first time the worker claims again. Each
        arming lasts beyond the next claim, so that an idle worker stays armed.
        """
        pause = min(max(float(self._idle.next_sleep(self._empty_streak)), 0.0), FOREVER)
        if ignoring := self._wakeups.found_nothing():
            return min(pause, next_due, ignoring)
        armed_until = self._armed_until
        await self._arm(pause)
        if time.monotonic() > armed_until and self._armed_until:
            return 0.0  # the worker may not have been armed for a moment
        self._empty_streak += 1
        return min(pause, next_due)

    async def _arm(self, pause: float) -> None:
        """Arm notifications for somewhat longer than a pause, if they can be received; also read the server's clock."""
        listens, began = self._listens(), time.monotonic()
        duration = timedelta(seconds=pause + ARM_MARGIN) if listens else NOT_ARMED
        now = await self._engine.arm(duration, self._queues)
        # Counted from before the statement, whose answer may take long.
        self._armed_until = began + pause + ARM_MARGIN if listens else 0.0
        if self._lanes.ahead_of(now):
            self._rescan()

    async def _audit(self, holder: str) -> None:
        """Release jobs that this worker has claimed in the database and does not have: a claim's answer was lost.

        This runs between two claims, when all answers have been processed: at once after a reconnect, and every 30 s
        through `run_pending_audit`, because a claim that timed out may still commit later.
        """
        link = self._engine.link
        if not link.connected:
            await link.connect(CONNECT_SECONDS)
        now = time.monotonic()
        reconnected = self._generation != link.generation
        if reconnected or holder != self._audited:
            self._pending_audit = None  # it may be from another server, whose clock was ahead
        if reconnected:
            # This may be another server, whose clock or data is behind, and on which the worker is not armed.
            self._rescan()
            self._armed_until = 0.0
        since = timedelta(seconds=now - self._audits[0] + AUDIT_MARGIN)
        if holder != self._audited:
            self._audits = (now, now)  # a new registration, which has claimed nothing
        elif reconnected:
            await self.release_unknown(holder, since)
            self._audits = (self._audits[1], now)
        elif now >= self._next_audit:
            self._pending_audit = await self._unknown(holder, since), now
            self._start_audit()
        else:
            return
        self._audited, self._generation = holder, link.generation
        self._next_audit = now + AUDIT_EVERY

    async def run_pending_audit(self, engine: Engine) -> None:
        """Run the audit that is due, if there is one, on another connection. An audit that fails stays due."""
        if (pending := self._pending_audit) is None:
            return
        unknown, at = pending
        await self._release(engine, unknown)
        if self._pending_audit is pending:
            self._pending_audit = None
            self._audits = (self._audits[1], at)

    async def _unknown(self, holder: str, since: timedelta) -> Unknown:
        known = self._held()
        return Unknown(holder, known, since, until=await self._engine.arm(NOT_ARMED))

    async def release_unknown(self, holder: str, since: timedelta = AT_SHUTDOWN) -> None:
        """Release jobs that the worker claimed in that time and does not have. Not to be called during a claim."""
        await self._release(self._engine, await self._unknown(holder, since))

    async def _release(self, engine: Engine, unknown: Unknown) -> None:
        released = await engine.disown(unknown)
        if released:
            self._rescan()
            self._announce(ClaimsReleased(self._worker_id, released))
