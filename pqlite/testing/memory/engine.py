"""The engine's verbs on a table in memory; ddl/functions has the same in SQL, file by file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from pqlite.errors import LeaseLost
from pqlite.job import Job, JobStatus, TakenOver
from pqlite.outcome import Outcome
from pqlite.store.engine import Answer, Claimed, Head, Lane, Mark, Unknown
from pqlite.testing.memory import verbs
from pqlite.testing.memory.settling import settle
from pqlite.testing.memory.table import Registration, Session, Table, value_of

READY, RUNNING = JobStatus.READY, JobStatus.RUNNING

SILENCE = timedelta(seconds=8)
GAP = timedelta(seconds=6)
BURIED_AFTER = timedelta(hours=1)


class MemoryLink:
    """What stands for a connection: it is never lost. Closing it frees its advisory locks."""

    generation = 1
    last_error = None
    lost_at = 0.0
    socket = None

    def __init__(self, table: Table, on_connect: Callable[[Any], Awaitable[None]] | None = None) -> None:
        self._table = table
        self._on_connect = on_connect
        self.session: Session | None = None

    @property
    def connected(self) -> bool:
        """Return whether there is a session."""
        return self.session is not None

    async def connect(self, deadline: float) -> None:
        """Make a session if there is none."""
        if self.session is None:
            self.session = session = Session(self._table)
            with self._table.lock:
                self._table.sessions.append(session)
            try:
                if self._on_connect is not None:
                    await self._on_connect(session)
            except BaseException:
                await self.close()
                raise

    async def fetch(self, sql: str, *args: Any, deadline: float) -> list[tuple[Any, ...]]:
        """Run the only statement there is: it asks for the advisory lock."""
        await self.connect(deadline)
        assert self.session is not None
        return [await self.session.fetchrow(sql, *args)]

    async def close(self, seconds: float = 1.0) -> None:
        """End the session."""
        session, self.session = self.session, None
        if session is not None:
            with self._table.lock, suppress(ValueError):
                self._table.sessions.remove(session)

    def holds(self, conn: object) -> bool:
        """Return whether this is the session in use."""
        return conn is self.session


class MemoryEngine:
    """The engine's verbs; see Engine."""

    next_schedule: float | None = None

    def __init__(self, table: Table, link: MemoryLink) -> None:
        self.link = link
        self._table = table

    async def claim(
        self,
        holder: str,
        room: int,
        *,
        prefetch: int = 0,
        suspect: bool,
        queues: Sequence[str] | None,
        types: Sequence[str] | None,
        lanes: Sequence[tuple[Lane, Mark]],
        versions: Mapping[str, int] | None = None,
    ) -> tuple[list[Claimed], bool]:
        """Claim due jobs; see Engine.claim."""
        with self._table.lock:
            now = self._table.clock.now()
            due = [row for row in self._table.free() if row.status is READY and row.run_after <= now]
            due = [row for row in due if not verbs.too_new(row, versions)]
            suspects = sorted((r for r in due if r.crashes and verbs.wanted(r, queues, types)), key=_due)
            if any(row.crashes and row.locked_by == holder for row in self._table.jobs.values()):
                suspects = []
            if suspect and suspects and room <= 0:
                return [], False
            chosen = suspects[:1] if suspect else []
            for lane, mark in lanes:
                chosen += sorted((r for r in due if not r.crashes and _lane(r) == lane and _due(r) > mark), key=_due)
            chosen = chosen[: room + prefetch]
            may_not_wait = [at for at, row in enumerate(chosen) if row.max_attempts == 1 and at >= room]
            chosen = chosen[: may_not_wait[0]] if may_not_wait else chosen
            if chosen:
                self._living(holder)
            by_lane: dict[Lane | None, list[Job]] = {}
            for row in chosen:
                claimed = verbs.claim(self._table, row, holder, now)
                by_lane.setdefault(None if row.crashes else _lane(row), []).append(_just_claimed(claimed))
        return [Claimed(lane, jobs) for lane, jobs in by_lane.items()], bool(chosen and may_not_wait)

    async def lanes(
        self,
        queues: Sequence[str] | None,
        types: Sequence[str] | None,
        known: Iterable[tuple[Lane, Mark]] = (),
        *,
        versions: Mapping[str, int] | None = None,
        deadline: float = 10.0,
    ) -> list[Head]:
        """Return the lanes that have READY jobs; see Engine.lanes."""
        marks = dict(known)
        first: dict[Lane, Mark] = {}
        with self._table.lock:
            now = self._table.clock.now()
            for row in self._table.jobs.values():
                if row.status is not READY or row.crashes or verbs.too_new(row, versions):
                    continue
                lane, place = _lane(row), _due(row)
                if place > marks[lane] if lane in marks else verbs.wanted(row, queues, types):
                    first[lane] = min(first.get(lane, place), place)
        heads = [Head(lane, mark, (mark.run_after - now).total_seconds()) for lane, mark in first.items()]
        later = sorted((head for head in heads if head.due_in > 0), key=lambda head: head.mark)
        found = [head for head in heads if head.due_in <= 0] + later[:1]
        return sorted(found, key=lambda head: (-head.lane.priority, head.mark))

    async def disown(self, unknown: Unknown) -> list[int]:
        """Release what the worker does not know of; see Engine.disown."""
        with self._table.lock:
            now, until = self._table.clock.now(), unknown.until
            lost = [
                row
                for row in self._held(unknown.holder)
                if row.id not in unknown.known and until - unknown.since < (row.locked_at or until) <= until
            ]
            for row in lost:
                asked = row.cancel_requested_at is not None
                changed = replace(row, attempts=row.attempts - 1, finished_at=now if asked else None)
                self._table.put(verbs.given_back(changed, JobStatus.CANCELLED if asked else READY, now))
            if lost:
                self._table.notify("rewind")
        return [row.id for row in lost]

    async def arm(self, duration: timedelta, queues: Sequence[str] | None = None) -> datetime:
        """Return the time: in memory a notification costs nothing, so everybody always gets it."""
        return self._table.clock.now()

    async def settle(
        self, holder: str, outcomes: Sequence[Outcome], *, keep_done: bool = True, deadline: float = 10.0
    ) -> list[Answer]:
        """Write outcomes of one holder's claims; see Engine.settle."""
        with self._table.lock:
            return settle(self._table, holder, outcomes, keep_done=keep_done, statuses=True)

    async def register(self, holder: str, label: str, lock_key: int | None, lease: timedelta, info: Any) -> None:
        """Announce the worker; see Engine.register."""
        with self._table.lock:
            now = self._table.clock.now()
            self._table.workers[holder] = Registration(holder, lock_key, now, now, now + lease)

    async def renew(
        self, holder: str, lease: timedelta, lock_key: int | None, *, deadline: float
    ) -> list[tuple[int, int]]:
        """Renew the worker's lease; see Engine.renew."""
        await self.link.connect(deadline)
        assert self.link.session is not None
        with self._table.lock:
            now, worker = self._table.clock.now(), self._living(holder)
            gone = lock_key is not None and (
                worker.lock_key is None or worker.renewed_at < self.link.session.connected_at
            )
            if now - worker.renewed_at > GAP or gone:
                worker.steady_since = now
            worker.lease_until, worker.renewed_at, worker.lock_key = now + lease, now, lock_key
            return [(row.id, row.claims) for row in self._held(holder) if row.cancel_requested_at is not None]

    async def unregister(self, holder: str) -> bool:
        """Say goodbye; see Engine.unregister."""
        with self._table.lock:
            if any(row.locked_by == holder for row in self._table.jobs.values()):
                if (worker := self._table.workers.get(holder)) is not None and worker.dead_at is None:
                    worker.dead_at = self._table.clock.now()
                self._table.notify("rewind")
                return False
            self._table.workers.pop(holder, None)
            return True

    async def reap(self, judge: str, limit: int = verbs.TAKEN_AT_ONCE) -> list[TakenOver]:
        """Declare dead workers dead, and take over what they held; see Engine.reap."""
        with self._table.lock:
            now = self._table.clock.now()
            if (by := self._judge(judge, now)) is not None:
                for worker in self._table.workers.values():
                    if worker.id != judge and worker.dead_at is None and self._is_dead(worker, by, now):
                        worker.dead_at = now
            dead = sorted((w.dead_at, w.id) for w in self._table.workers.values() if w.dead_at is not None)
            taken: list[TakenOver] = []
            for dead_at, worker_id in dead:
                held = self._held(worker_id)[: limit - len(taken)]
                taken += verbs.take_over(self._table, held, "worker died")
                gone = not any(row.locked_by == worker_id for row in self._table.jobs.values())
                if not held and gone and now - dead_at > BURIED_AFTER:
                    del self._table.workers[worker_id]
            return taken

    async def reap_stale(self, stale_after: timedelta) -> list[TakenOver]:
        """Take over jobs that no registered worker owns; see Engine.reap_stale."""
        with self._table.lock:
            return verbs.reap_stale(self._table, stale_after)

    async def next_death(self, judge: str) -> float | None:
        """Return when another worker could be dead; see Engine.next_death."""
        with self._table.lock:
            now = self._table.clock.now()
            others = [worker for worker in self._table.workers.values() if worker.id != judge]
            living = [worker.renewed_at for worker in others if worker.dead_at is None]
            if not others:
                return None
            return (min(living, default=now) + SILENCE - now).total_seconds()

    def _living(self, holder: str) -> Registration:
        worker = self._table.workers.get(holder)
        if worker is None or worker.dead_at is not None:
            raise LeaseLost(f"worker {holder} was declared dead")
        return worker

    def _held(self, holder: str) -> list[Job]:
        return [row for row in self._table.free() if row.locked_by == holder]

    def _judge(self, judge: str, now: datetime) -> Registration | None:
        """Return the judge if it may judge now."""
        worker, session = self._table.workers.get(judge), self.link.session
        if worker is None or worker.dead_at is not None:
            return None
        steady = worker.steady_since < now - SILENCE and worker.renewed_at > now - GAP
        same = worker.lock_key is None or (session is not None and worker.renewed_at > session.connected_at)
        return worker if steady and same else None

    def _is_dead(self, worker: Registration, judge: Registration, now: datetime) -> bool:
        if worker.renewed_at >= now - SILENCE:
            return False
        # Who has no lock itself judges by leases alone.
        by_locks = worker.lock_key is not None and judge.lock_key is not None
        return worker.lease_until < now or (by_locks and self._table.is_free(worker.lock_key or 0))


def _just_claimed(row: Job) -> Job:
    """Return what a worker is given of a claimed row."""
    payload, metadata = value_of(row.payload), value_of(row.metadata)
    return replace(
        row,
        payload=payload,
        metadata=metadata,
        tags=list(row.tags),
        updated_at=None,
        expires_at=None,
        waiting_on=0,
        result=None,
        last_error=None,
        errors=[],
    )


def _lane(row: Job) -> Lane:
    return Lane(row.queue, row.job_type, row.priority)


def _due(row: Job) -> Mark:
    return Mark(row.run_after, row.id)
