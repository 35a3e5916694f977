"""An engine in memory that answers at once: the claimer's tests count its questions and its pauses, not the database's
milliseconds. It knows what a claimer asks and no more; what PostgreSQL answers is tested in tests/conformance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from pqlite.errors import LeaseLost
from pqlite.job import Job, JobStatus, TakenOver
from pqlite.store.engine import Claimed, Head, Lane, Mark, Unknown
from pqlite.testing import MemoryJobStore
from pqlite.testing.memory import acts
from pqlite.testing.memory.table import Table, read

READY = JobStatus.READY


class Way:
    """A connection that can be lost."""

    def __init__(self) -> None:
        self.connected = False
        self.generation = 0

    async def connect(self, deadline: float) -> None:
        self.connected = True
        self.generation += 1


class StoreWithEngine(MemoryJobStore):
    """A store in memory that a claimer can claim from."""

    def __init__(self) -> None:
        super().__init__()
        self.workers: set[str] = set()

    def engine(self, purpose: str) -> MemoryEngine:
        return MemoryEngine(self._table, self.workers)


class MemoryEngine:
    def __init__(self, table: Table, workers: set[str]) -> None:
        self.link = Way()
        self._table = table
        self._workers = workers

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
        now = self._table.clock.now()
        due = [row for row in self._table.free() if row.status is READY and row.run_after <= now]
        due = [row for row in due if not acts.too_new(row, versions or {})]
        suspects = sorted((r for r in due if r.crashes and acts.wanted(r, queues, types)), key=_due)
        if suspect and suspects and room <= 0:
            return [], False
        chosen = suspects[:1] if suspect else []
        for lane, mark in lanes:
            chosen += sorted((r for r in due if not r.crashes and _lane(r) == lane and _due(r) > mark), key=_due)
        chosen = chosen[: room + prefetch]
        may_not_wait = [at for at, row in enumerate(chosen) if row.max_attempts == 1 and at >= room]
        chosen = chosen[: may_not_wait[0]] if may_not_wait else chosen
        if chosen and holder not in self._workers:
            raise LeaseLost(f"worker {holder} was declared dead")
        by_lane: dict[Lane | None, list[Job]] = {}
        for row in chosen:
            claimed = read(acts.claim(self._table, row, holder, now))
            by_lane.setdefault(None if row.crashes else _lane(row), []).append(claimed)
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
        marks = dict(known)
        first: dict[Lane, Mark] = {}
        now = self._table.clock.now()
        for row in self._table.jobs.values():
            if row.status is not READY or row.crashes or acts.too_new(row, versions or {}):
                continue
            lane, place = _lane(row), _due(row)
            if place > marks[lane] if lane in marks else acts.wanted(row, queues, types):
                first[lane] = min(first.get(lane, place), place)
        heads = [Head(lane, mark, (mark.run_after - now).total_seconds()) for lane, mark in first.items()]
        later = sorted((head for head in heads if head.due_in > 0), key=lambda head: head.mark)
        found = [head for head in heads if head.due_in <= 0] + later[:1]
        return sorted(found, key=lambda head: (-head.lane.priority, head.mark))

    async def disown(self, unknown: Unknown) -> list[int]:
        now, until = self._table.clock.now(), unknown.until
        lost = [
            row
            for row in self._table.free()
            if row.locked_by == unknown.holder
            and row.id not in unknown.known
            and until - unknown.since < (row.locked_at or until) <= until
        ]
        for row in lost:
            self._table.put(acts.given_back(replace(row, attempts=row.attempts - 1), READY, now))
        return [row.id for row in lost]

    async def arm(self, duration: timedelta, queues: Sequence[str] | None = None) -> datetime:
        return self._table.clock.now()

    async def register(self, holder: str, label: str, lock_key: int | None, lease: timedelta, info: Any) -> None:
        self._workers.add(holder)

    async def unregister(self, holder: str) -> None:
        self._workers.discard(holder)

    async def reap(self, judge: str, limit: int = 500) -> list[TakenOver]:
        held = [row for row in self._table.free() if row.locked_by is not None and row.locked_by not in self._workers]
        return acts.take_over(self._table, held, "worker died")


def _lane(row: Job) -> Lane:
    return Lane(row.queue, row.job_type, row.priority)


def _due(row: Job) -> Mark:
    return Mark(row.run_after, row.id)
