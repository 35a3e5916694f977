"""Schedules in memory, with the behaviour of the SQL functions in ddl/functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from pydantic_core import to_json

from pqlite.job import NewJob
from pqlite.schedules import StoredSchedule
from pqlite.store.scheduling import DueSchedule, Verdict
from pqlite.store.validation import row
from pqlite.testing.memory import acts
from pqlite.testing.memory.table import Table

HELD = timedelta(minutes=1)
"""How often a slot that waits is looked at: a second on PostgreSQL, where time passes by itself."""
_TIMING = ("cron", "every", "anchor", "timezone")


class MemorySchedules:
    """The schedules of one store in memory. There are no releases to compare: definitions in code are added or
    changed.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._rows: dict[str, StoredSchedule] = {}

    async def add(self, name: str, definition: Mapping[str, Any]) -> bool:
        """Add a schedule; return False if there is one by that name."""
        if name in self._rows:
            return False
        now = self._table.clock.now()
        self._rows[name] = StoredSchedule(
            **definition, name=name, next_at=now, handled_through=now, held_since=None, paused_at=None,
            disabled_at=None, defined_in="row", revision=1, last_slot=None, last_fired_at=None, last_job_id=None,
            last_job_status=None, lateness=None, fired=0, skipped=0, missed_slots=0, problem=None, created_at=now,
            updated_at=now,
        )  # fmt: skip
        return True

    async def change(self, name: str, changes: Mapping[str, Any]) -> bool:
        """Change columns of a schedule; return False if there is none."""
        if (old := self._rows.get(name)) is None:
            return False
        now = self._table.clock.now()
        new = replace(old, **changes, revision=old.revision + 1, problem=None, updated_at=now)
        if any(getattr(old, field) != getattr(new, field) for field in (*_TIMING, "paused_at")):
            next_at = None if new.paused_at is not None else now
            handled_through = max(old.handled_through, now)
            new = replace(new, next_at=next_at, handled_through=handled_through, held_since=None)
        self._rows[name] = new
        return True

    async def remove(self, name: str) -> str | None:
        """Remove a schedule: REMOVED; DEFINED if code defines it; None if there is none."""
        if (old := self._rows.get(name)) is None:
            return None
        if old.defined_in == "code":
            return "DEFINED"
        del self._rows[name]
        return "REMOVED"

    async def pause(self, name: str) -> bool:
        """Pause a schedule; return False if there is none."""
        paused = name in self._rows and self._rows[name].paused_at is not None
        return paused or await self.change(name, {"paused_at": self._table.clock.now()})

    async def resume(self, name: str) -> bool:
        """End its pause; return False if there is none."""
        return await self.change(name, {"paused_at": None})

    async def run_now(self, name: str) -> tuple[int, bool] | None:
        """Enqueue a job of a schedule: its id, and whether it is new; None if there is no such schedule."""
        if (schedule := self._rows.get(name)) is None:
            return None
        now = self._table.clock.now()
        job_id, inserted = self._enqueue(schedule, now, now, {"run_now": True})
        self._rows[name] = replace(schedule, last_job_id=job_id)
        return job_id, inserted

    async def all(self, name: str | None = None) -> list[StoredSchedule]:
        """Return all schedules by name, or the one of that name."""
        names = sorted(self._rows) if name is None else [name] if name in self._rows else []
        return [self._seen(self._rows[each]) for each in names]

    async def due(self, limit: int) -> list[DueSchedule]:
        """Return the schedules that are due, at most `limit`, and the soonest that is not."""
        now = self._table.clock.now()
        waiting = [(each.next_at, each) for each in self._rows.values() if each.next_at is not None]
        waiting.sort(key=lambda pair: pair[0])
        due = [_due(each, next_at, now) for next_at, each in waiting if next_at <= now]
        later = [_due(each, next_at, now) for next_at, each in waiting if next_at > now]
        return due[:limit] + later[:1]

    async def fire(self, plans: Sequence[Mapping[str, Any]]) -> list[Verdict]:
        """Carry out plans."""
        told: list[Verdict] = []
        for plan in plans:
            schedule = self._rows[plan["name"]]
            made_from = schedule.revision, schedule.handled_through
            if made_from == (plan["revision"], plan["handled_through"]) and schedule.next_at is not None:
                told += self._fire(schedule, plan)
        return told

    async def reconcile(
        self, definitions: Sequence[Mapping[str, Any]], grace: timedelta, *, disable: bool
    ) -> list[tuple[str, str]]:
        """Add the schedules that code defines, and change those that it has changed."""
        told = []
        for each in definitions:
            name, definition = each["name"], each["definition"]
            if await self.add(name, definition):
                self._rows[name] = replace(self._rows[name], defined_in="code")
                told.append((name, "ADDED"))
        return told

    def _fire(self, schedule: StoredSchedule, plan: Mapping[str, Any]) -> list[Verdict]:
        now, name = self._table.clock.now(), schedule.name
        if (problem := plan.get("problem")) is not None:
            self._rows[name] = replace(schedule, problem=problem, next_at=now + timedelta(minutes=1))
            return [] if problem == schedule.problem else [Verdict(name, "FAILED", None, None, None, 1, problem)]
        told: list[Verdict] = []
        if plan["missed"]:
            told.append(Verdict(name, "MISSED", None, None, None, plan["missed"], None))
        through, next_at, held = plan["through"], plan["next_at"], None
        handled = schedule.handled_through
        for slot in plan["slots"]:
            job_id, inserted = self._enqueue(schedule, slot["slot"], slot["run_after"], {})
            if not inserted and schedule.overlap == "queue":
                held, through, next_at = schedule.held_since or now, handled, now + HELD
                told.append(Verdict(name, "HELD", slot["slot"], job_id, None, 1, None))
                break
            handled = slot["slot"]
            if inserted:
                late = now - handled
                fired = schedule.fired + 1
                schedule = replace(
                    schedule, fired=fired, last_slot=handled, last_job_id=job_id, last_fired_at=now, lateness=late
                )
                told.append(Verdict(name, "FIRED", handled, job_id, late.total_seconds(), 1, None))
            else:
                schedule = replace(schedule, skipped=schedule.skipped + 1)
                told.append(Verdict(name, "SKIPPED", handled, job_id, None, 1, None))
        self._rows[name] = replace(
            schedule, next_at=next_at, handled_through=through, held_since=held, problem=None,
            missed_slots=schedule.missed_slots + plan["missed"],
        )  # fmt: skip
        return told

    def _enqueue(
        self, schedule: StoredSchedule, slot: datetime, run_after: datetime, more: dict[str, Any]
    ) -> tuple[int, bool]:
        metadata = {**schedule.metadata, **more, "schedule": schedule.name, "scheduled_for": slot.isoformat()}
        job = NewJob(
            job_type=schedule.job_type, payload=schedule.payload, queue=schedule.queue, priority=schedule.priority,
            max_attempts=schedule.max_attempts, timeout_seconds=schedule.timeout_seconds, tags=schedule.tags,
            metadata=metadata, concurrency_key=schedule.concurrency_key, run_after=run_after,
            dedupe_key=None if schedule.overlap == "allow" else f"schedule:{schedule.name}",
        )  # fmt: skip
        enqueued = acts.enqueue(self._table, row(job, len(to_json(schedule.payload)) + len(to_json(metadata)) + 2))
        return enqueued.id, enqueued.inserted

    def _seen(self, schedule: StoredSchedule) -> StoredSchedule:
        job = None if schedule.last_job_id is None else self._table.get(schedule.last_job_id)
        return replace(schedule, last_job_status=None if job is None else job.status)


def _due(schedule: StoredSchedule, next_at: datetime, now: datetime) -> DueSchedule:
    return DueSchedule(
        schedule.name, schedule.revision, schedule.cron, schedule.every, schedule.anchor, schedule.timezone,
        schedule.missed, schedule.jitter, schedule.handled_through, schedule.held_since is not None, next_at, now,
    )  # fmt: skip
