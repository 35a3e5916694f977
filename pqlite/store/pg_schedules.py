"""Schedules in PostgreSQL: each operation one statement."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from pydantic_core import from_json, to_json

from pqlite.job import JobStatus
from pqlite.schedules import StoredSchedule
from pqlite.store.scheduling import DueSchedule, Verdict
from pqlite.store.statements import Statements

Fetch = Callable[..., Awaitable[Sequence[Any]]]
"""Runs a statement with its arguments, and returns the rows."""


class PgSchedules:
    """Schedules in PostgreSQL; what it raises is what `fetch` raises."""

    def __init__(self, fetch: Fetch, statements: Statements) -> None:
        self._fetch = fetch
        self._sql = statements

    async def add(self, name: str, definition: Mapping[str, Any]) -> bool:
        """See add_schedule.sql."""
        return bool((await self._fetch(self._sql.add_schedule, name, _json(definition)))[0][0])

    async def change(self, name: str, changes: Mapping[str, Any]) -> bool:
        """See change_schedule.sql."""
        return bool((await self._fetch(self._sql.change_schedule, name, _json(changes)))[0][0])

    async def remove(self, name: str) -> str | None:
        """See remove_schedule.sql."""
        verdict: str | None = (await self._fetch(self._sql.remove_schedule, name))[0][0]
        return verdict

    async def pause(self, name: str) -> bool:
        """See pause_schedule.sql."""
        return bool((await self._fetch(self._sql.pause_schedule, name))[0][0])

    async def resume(self, name: str) -> bool:
        """See resume_schedule.sql."""
        return bool((await self._fetch(self._sql.resume_schedule, name))[0][0])

    async def run_now(self, name: str) -> tuple[int, bool] | None:
        """See run_schedule_now.sql."""
        rows = await self._fetch(self._sql.run_schedule_now, name)
        return (rows[0][0], rows[0][1]) if rows else None

    async def all(self, name: str | None = None) -> list[StoredSchedule]:
        """Return all schedules by name, or the one of that name."""
        return [_stored(r) for r in await self._fetch(self._sql.schedules, name)]

    async def due(self, limit: int) -> list[DueSchedule]:
        """See due_schedules.sql."""
        return [DueSchedule(*r) for r in await self._fetch(self._sql.due_schedules, limit)]

    async def fire(self, plans: Sequence[Mapping[str, Any]]) -> list[Verdict]:
        """See fire_schedules.sql."""
        ordered = sorted(plans, key=lambda each: str(each["name"]).encode())
        return [Verdict(*r) for r in await self._fetch(self._sql.fire_schedules, _json(ordered))]

    async def reconcile(
        self, definitions: Sequence[Mapping[str, Any]], grace: timedelta, *, disable: bool
    ) -> list[tuple[str, str]]:
        """See reconcile_schedules.sql."""
        rows = await self._fetch(self._sql.reconcile_schedules, _json(definitions), grace, disable)
        return [(r[0], r[1]) for r in rows]


def _json(value: Any) -> str:
    return to_json(value).decode()  # an interval as ISO 8601, which PostgreSQL reads


def _stored(r: Any) -> StoredSchedule:
    values = dict(r)
    for field in ("payload", "metadata"):
        values[field] = from_json(values[field])
    if values["last_job_status"] is not None:
        values["last_job_status"] = JobStatus(values["last_job_status"])
    return StoredSchedule(**values)
