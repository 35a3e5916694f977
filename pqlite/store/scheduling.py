"""The verbs of JobStore about schedules, and the acts that a backend supplies for them.

`ScheduleVerbs` is a base class of JobStore. `SchedulePort` declares the acts that it and the worker's scheduler need;
`PgSchedules` in pg_schedules.py implements them in PostgreSQL. (Over 300 lines, half of them docstrings.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

from pydantic_core import from_json, to_json

from pqlite.errors import InvalidSchedule, ScheduleExists, ScheduleNotFound
from pqlite.job import Enqueued, NewJob
from pqlite.schedules import Schedule, StoredSchedule, delay, next_ticks, plan, timing
from pqlite.store.validation import COLUMNS, row

JOB_FIELDS = ("job_type", "payload", "queue", "priority", "max_attempts", "timeout_seconds", "tags", "metadata",
              "concurrency_key")  # fmt: skip
TIMING_FIELDS = ("cron", "every", "anchor", "timezone", "overlap", "missed", "jitter")


class DueSchedule(NamedTuple):
    """A schedule that is due at `next_at`; `now` is the store's time."""

    name: str
    revision: int
    cron: str | None
    every: timedelta | None
    anchor: datetime
    timezone: str
    missed: str
    jitter: timedelta
    handled_through: datetime
    held: bool
    next_at: datetime
    now: datetime


class Verdict(NamedTuple):
    """The verdict on one slot, or on a schedule: FIRED, SKIPPED, HELD, MISSED or FAILED; see fire_schedules.sql."""

    name: str
    verdict: str
    slot: datetime | None
    job_id: int | None
    late: float | None
    times: int
    detail: str | None


class SchedulePort(Protocol):
    """The acts of a backend about schedules. The SQL functions in ddl/functions say more about each."""

    async def add(self, name: str, definition: Mapping[str, Any]) -> bool:
        """Add a schedule; return False if there is one by that name."""
        ...

    async def change(self, name: str, changes: Mapping[str, Any]) -> bool:
        """Change columns of a schedule; return False if there is none."""
        ...

    async def remove(self, name: str) -> str | None:
        """Remove a schedule: REMOVED; DEFINED if code defines it; None if there is none."""
        ...

    async def pause(self, name: str) -> bool:
        """Pause a schedule; return False if there is none."""
        ...

    async def resume(self, name: str) -> bool:
        """End its pause; return False if there is none."""
        ...

    async def run_now(self, name: str) -> tuple[int, bool] | None:
        """Enqueue a job of a schedule: its id, and whether it is new; None if there is no such schedule."""
        ...

    async def all(self, name: str | None = None) -> list[StoredSchedule]:
        """Return all schedules by name, or the one of that name."""
        ...

    async def due(self, limit: int) -> list[DueSchedule]:
        """Return the schedules that are due, at most `limit`, and the soonest that is not."""
        ...

    async def fire(self, plans: Sequence[Mapping[str, Any]]) -> list[Verdict]:
        """Carry out plans."""
        ...

    async def reconcile(
        self, definitions: Sequence[Mapping[str, Any]], grace: timedelta, *, disable: bool
    ) -> list[tuple[str, str]]:
        """Write the schedules that code defines; return (name, verdict) of each that differs from its definition."""
        ...


def planned(due: DueSchedule) -> dict[str, Any]:
    """Return the plan for a schedule that is due, as `SchedulePort.fire` takes it. If the row has invalid values, the
    plan contains the problem instead of an exception being raised.
    """
    made: dict[str, Any] = {"name": due.name, "revision": due.revision, "handled_through": due.handled_through}
    try:
        when = timing(due.cron, due.every, anchor=due.anchor, timezone=due.timezone)
        todo = plan(when, missed=due.missed, handled_through=due.handled_through, now=due.now, held=due.held)
    except Exception as error:  # InvalidSchedule, or another error that the values of a row cause
        return {**made, "problem": str(error) if isinstance(error, InvalidSchedule) else repr(error)}
    slots = [{"slot": slot, "run_after": slot + delay(due.name, slot, due.jitter)} for slot in todo.slots]
    return {**made, "slots": slots, "missed": todo.missed, "through": todo.through, "next_at": todo.next_at}


class ScheduleVerbs:
    """The verbs of JobStore about schedules, over the backend's SchedulePort."""

    _max_payload_bytes: int

    def _schedules(self) -> SchedulePort:
        raise NotImplementedError

    async def schedules(self) -> list[StoredSchedule]:
        """Return all schedules, by name."""
        return await self._schedules().all()

    async def schedule(self, name: str) -> StoredSchedule:
        """Return a schedule.

        Raises:
            ScheduleNotFound: there is none by that name.
        """
        found = await self._schedules().all(_named(name))
        if not found:
            raise _missing(name)
        return found[0]

    async def add_schedule(self, schedule: Schedule) -> StoredSchedule:
        """Add a schedule at run time; return it. Workers of all processes are notified.

        Raises:
            ScheduleExists: there is one by that name; see `change_schedule`.
            InvalidJob, PayloadError: its job could not be enqueued.
        """
        if not isinstance(schedule, Schedule):
            raise InvalidSchedule(f"add_schedule takes a Schedule, not {schedule!r}")
        port = self._schedules()
        if not await port.add(schedule.name, definition_of(schedule, self._max_payload_bytes)):
            raise ScheduleExists(f"There is a schedule {schedule.name!r} already: change_schedule changes it.")
        return await self._reckoned(schedule.name)

    async def change_schedule(self, name: str, **changes: Any) -> StoredSchedule:
        """Change a schedule; return it as it is then. `next_at` is computed again at once, and slots before the change
        do not fire any more. A schedule that code defines keeps the change until its code changes.

            await store.change_schedule("nightly", cron="30 4 * * *", timezone="Europe/Berlin")
            await store.change_schedule("nightly", every=timedelta(hours=1))

        Args:
            changes: arguments of Schedule but for its name and job; `cron` and `every` replace each other. Also
                `job_type` and `payload`.

        Raises:
            ScheduleNotFound: there is none by that name.
            InvalidSchedule, InvalidJob, PayloadError: a change cannot work.
        """
        before = await self.schedule(name)
        definition = changed(before, changes, self._max_payload_bytes)
        if not await self._schedules().change(name, definition):
            raise _missing(name)
        return await self._reckoned(name)

    async def remove_schedule(self, name: str) -> None:
        """Remove a schedule; its jobs stay.

        Raises:
            ScheduleNotFound: there is none by that name.
            ScheduleExists: code defines it, so it would come back: pause it, or remove it from the code.
        """
        verdict = await self._schedules().remove(_named(name))
        if verdict is None:
            raise _missing(name)
        if verdict == "DEFINED":
            raise ScheduleExists(f"The schedule {name!r} is defined in code: pause it, or remove it there.")

    async def pause_schedule(self, name: str) -> StoredSchedule:
        """Pause a schedule until `resume_schedule`, also across releases of the code; return it.

        Raises:
            ScheduleNotFound: there is none by that name.
        """
        if not await self._schedules().pause(_named(name)):
            raise _missing(name)
        return await self.schedule(name)

    async def resume_schedule(self, name: str) -> StoredSchedule:
        """End the pause of a schedule; return it. Slots during the pause do not fire.

        Raises:
            ScheduleNotFound: there is none by that name.
        """
        if not await self._schedules().resume(_named(name)):
            raise _missing(name)
        return await self._reckoned(name)

    async def run_schedule_now(self, name: str) -> Enqueued[int]:
        """Enqueue a job of a schedule now, also of a paused one. Its slots do not change. The job's `scheduled_for` is
        now.

        Unless overlap is "allow", there are never two active jobs of a schedule: if there is one, its id is returned,
        and `inserted` is False.

        Raises:
            ScheduleNotFound: there is none by that name.
        """
        found = await self._schedules().run_now(_named(name))
        if found is None:
            raise _missing(name)
        return Enqueued(*found)

    async def next_ticks(self, name: str, count: int = 5) -> list[datetime]:
        """Return the next slots of a schedule, paused or not, in UTC.

        Raises:
            ScheduleNotFound: there is none by that name.
            InvalidSchedule: its row has invalid values.
        """
        found = await self.schedule(name)
        return next_ticks(found.timing(), count, max(datetime.now(UTC), found.handled_through))

    async def _reckoned(self, name: str) -> StoredSchedule:
        """Return a schedule that was just changed, with its next slot computed."""
        port = self._schedules()
        found = await port.all(name)
        if not found:
            raise _missing(name)
        stored = found[0]
        if stored.next_at is not None:
            await port.fire([reckoning(stored)])
            stored = (await port.all(name) or found)[0]
        return stored


def reckoning(stored: StoredSchedule) -> dict[str, Any]:
    """Return a plan that fires nothing and only sets the next slot of a schedule."""
    return planned(
        DueSchedule(
            stored.name, stored.revision, stored.cron, stored.every, stored.anchor, stored.timezone, stored.missed,
            stored.jitter, stored.handled_through, False, stored.handled_through, stored.handled_through,
        )
    )  # fmt: skip


def definition_of(schedule: Schedule, max_payload_bytes: int) -> dict[str, Any]:
    """Return the columns of a schedule.

    Raises:
        InvalidJob, PayloadError: its job could not be enqueued.
    """
    columns = _job_columns(schedule.job, max_payload_bytes)
    timings = {field: getattr(schedule, field) for field in TIMING_FIELDS}
    return {**columns, **timings}


def changed(before: StoredSchedule, changes: Mapping[str, Any], max_payload_bytes: int) -> dict[str, Any]:
    """Return the columns that change, checked together with those that stay.

    Raises:
        InvalidSchedule, InvalidJob, PayloadError: a change cannot work.
    """
    for field in changes:
        if field not in JOB_FIELDS + TIMING_FIELDS:
            raise InvalidSchedule(f"A schedule has no {field!r} that could change.")
    changes = dict(changes)
    if changes.get("cron") is not None:
        changes.setdefault("every", None)
        changes.setdefault("anchor", None)
    elif changes.get("every") is not None:
        changes.setdefault("cron", None)
        changes.setdefault("timezone", "UTC")
    job = {field: changes.get(field, getattr(before, field)) for field in JOB_FIELDS}
    when = {field: changes.get(field, getattr(before, field)) for field in TIMING_FIELDS}
    new = Schedule(before.name, NewJob(**job), **when)
    whole = definition_of(new, max_payload_bytes)
    return {field: whole[field] for field in changes}


def defined(schedules: Iterable[Schedule], max_payload_bytes: int) -> list[dict[str, Any]]:
    """Return definitions as `SchedulePort.reconcile` takes them.

    Raises:
        InvalidSchedule: two have one name. InvalidJob, PayloadError: a job could not be enqueued.
    """
    found: dict[str, dict[str, Any]] = {}
    for schedule in schedules:
        if schedule.name in found:
            raise InvalidSchedule(f"Two schedules are called {schedule.name!r}; give one of them another name=")
        definition = definition_of(schedule, max_payload_bytes)
        digest = hashlib.sha256(to_json(definition)).hexdigest()[:32]
        found[schedule.name] = {"name": schedule.name, "digest": digest, "definition": definition}
    return list(found.values())


def _job_columns(job: NewJob, max_payload_bytes: int) -> dict[str, Any]:
    values = dict(zip(COLUMNS, row(job, max_payload_bytes), strict=True))
    columns = {field: values[field] for field in JOB_FIELDS}
    return {**columns, "payload": from_json(values["payload"]), "metadata": from_json(values["metadata"]),
            "tags": list(values["tags"])}  # fmt: skip


def _named(name: str) -> str:
    if not isinstance(name, str):
        raise InvalidSchedule(f"A schedule is named by text, not by {name!r}")
    return name


def _missing(name: str) -> ScheduleNotFound:
    return ScheduleNotFound(f"There is no schedule {name!r}.")
