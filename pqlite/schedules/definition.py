"""Schedule, which an app declares, and StoredSchedule, its state in the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias, get_args

from pqlite.errors import InvalidSchedule
from pqlite.job import JobOptions, JobStatus, NewJob
from pqlite.schedules.parsing import check_with_croniter, parse
from pqlite.schedules.planning import next_ticks
from pqlite.schedules.timing import EPOCH, Timing, timing

Overlap: TypeAlias = Literal["skip", "queue", "allow"]
Missed: TypeAlias = Literal["latest", "skip", "all"]

_DAY = timedelta(days=1)
_RULED_OUT: Mapping[str, str] = {
    "dedupe_key": "overlap= says whether two jobs of a schedule may be active at once",
    "run_after": "the schedule says when",
    "expires_at": "each of its jobs has another time",
}


@dataclass(frozen=True, slots=True, init=False)
class Schedule:
    """A job that is enqueued periodically.

        Schedule("nightly", report.new("all"), cron="0 3 * * *", timezone="Europe/Berlin")
        Schedule("ping", "ping", {"host": "a"}, every=timedelta(minutes=5), queue="probes")

    Args:
        name: its unique name, 1 to 200 bytes.
        job: the job to enqueue: a job type, or a whole job (`handler.new(...)`, `NewJob`).
        payload: with a job type, the payload.
        cron: five fields (minute, hour, day of month, month, day of week) or six (second first), or @daily and its
            like; see pqlite.schedules.cron.
        every: an interval of at least a second, instead of `cron`.
        anchor: the start of the intervals: slots are at the anchor and at every interval before and after it, so that a
            restart does not shift them. By default 1970-01-01 00:00 UTC: an interval of 5 minutes is at :00, :05 and
            so on.
        timezone: the IANA name of the time zone of `cron`. pqlite.schedules.zones says what happens when its clocks
            change.
        overlap: what happens at a slot if the schedule's previous job is active (READY, also for a retry; BLOCKED;
            RUNNING). "skip": the slot is skipped; "queue": the slot waits until that job has ended (up to 1,000 slots
            wait); "allow": both jobs exist. With the first two, a schedule never has two active jobs: a job that was
            retried with `store.retry` counts as well, and cannot be retried while another is active.
        missed: after a time without a worker, "latest": one job for the latest slot; "skip": none, if that is more than
            30 seconds ago; "all": one for each slot, at most for the latest 1,000.
        jitter: the maximum random delay of a job after its slot (seconds or timedelta, less than a day). It is always
            the same for the same slot. `scheduled_for` is the slot without it.
        options: the job's queue, priority, max_attempts, timeout_seconds, tags, metadata, concurrency_key.

    Raises:
        InvalidSchedule: an argument is invalid; for a cron expression, the message has the position.
    """

    name: str
    job: NewJob
    cron: str | None
    every: timedelta | None
    anchor: datetime
    timezone: str
    overlap: Overlap
    missed: Missed
    jitter: timedelta
    timing: Timing = field(repr=False, compare=False)

    def __init__(
        self,
        name: str,
        job: str | NewJob,
        payload: Any = None,
        *,
        cron: str | None = None,
        every: float | timedelta | None = None,
        anchor: datetime | None = None,
        timezone: str = "UTC",
        overlap: Overlap = "skip",
        missed: Missed = "latest",
        jitter: float | timedelta = timedelta(0),
        **options: Any,
    ) -> None:
        if not isinstance(name, str) or not 1 <= len(name.encode("utf-8", "replace")) <= 200 or "\0" in name:
            raise InvalidSchedule(f"A schedule's name must be text of 1 to 200 bytes, not {name!r}")
        where = f"Schedule {name!r}: "
        try:
            interval = None if every is None else _duration("every", every)
            when = timing(cron, interval, anchor=anchor, timezone=timezone)
            if cron is not None:
                check_with_croniter(parse(cron))
                if when.next(datetime.now(UTC)) is None:
                    raise InvalidSchedule(f"{cron!r} never comes again")
            _one_of("overlap", overlap, get_args(Overlap))
            _one_of("missed", missed, get_args(Missed))
            if not timedelta(0) <= (spread := _duration("jitter", jitter)) < _DAY:
                raise InvalidSchedule(f"jitter must be 0 or more, and less than a day, not {jitter!r}")
            whole = _job(job, payload, options)
        except InvalidSchedule as error:
            raise InvalidSchedule(where + str(error)) from None
        values = {
            "name": name, "job": whole, "cron": cron, "every": interval, "anchor": EPOCH if anchor is None else anchor,
            "timezone": timezone, "overlap": overlap, "missed": missed, "jitter": spread, "timing": when,
        }  # fmt: skip
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)

    def next_ticks(self, count: int = 5, *, after: datetime | None = None) -> list[datetime]:
        """Return the next slots, in UTC, after now (by this computer's clock) or another time."""
        return next_ticks(self.timing, count, datetime.now(UTC) if after is None else after)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSchedule:
    """A schedule as it is in the database.

    `next_at` is its next slot (None while it is paused or disabled, or if there is none). Slots up to `handled_through`
    have fired or are skipped. `paused_at` is when it was paused; `disabled_at` is when it was disabled because no
    running release defines it any more (only if `defined_in` is "code"). `problem` says why it does not work, None if
    it does. `last_slot`, `last_job_id`, `last_job_status` and `lateness` (the delay from slot to enqueue) describe its
    latest job; the counts are totals.
    """

    name: str
    job_type: str
    payload: Any
    queue: str
    priority: int
    max_attempts: int
    timeout_seconds: float | None
    tags: list[str]
    metadata: dict[str, Any]
    concurrency_key: str | None
    cron: str | None
    every: timedelta | None
    anchor: datetime
    timezone: str
    overlap: str
    missed: str
    jitter: timedelta
    next_at: datetime | None
    handled_through: datetime
    held_since: datetime | None
    paused_at: datetime | None
    disabled_at: datetime | None
    defined_in: str
    revision: int
    last_slot: datetime | None
    last_fired_at: datetime | None
    last_job_id: int | None
    last_job_status: JobStatus | None
    lateness: timedelta | None
    fired: int
    skipped: int
    missed_slots: int
    problem: str | None
    created_at: datetime
    updated_at: datetime

    def timing(self) -> Timing:
        """Return when its slots are.

        Raises:
            InvalidSchedule: the row has invalid values.
        """
        return timing(self.cron, self.every, anchor=self.anchor, timezone=self.timezone)


def _job(job: str | NewJob, payload: Any, options: Mapping[str, Any]) -> NewJob:
    if not isinstance(job, (str, NewJob)):
        raise InvalidSchedule(f"the job must be a job type, handler.new(...) or NewJob(...), not {job!r}")
    for option in options:
        if option in _RULED_OUT:
            raise InvalidSchedule(f"{option} cannot be given: {_RULED_OUT[option]}")
        if option not in JobOptions.__annotations__:
            raise InvalidSchedule(f"there is no option {option!r}")
    if isinstance(job, str):
        return NewJob(job_type=job, payload=payload, **options)
    if payload is not None:
        raise InvalidSchedule("the payload is part of the job that was given")
    for option, reason in _RULED_OUT.items():
        if getattr(job, option) is not None:
            raise InvalidSchedule(f"{option} cannot be given: {reason}")
    return job.with_options(**options)


def _one_of(what: str, value: object, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise InvalidSchedule(f"{what} is {value!r}; it must be one of {', '.join(map(repr, accepted))}")


def _duration(what: str, value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError
        return timedelta(seconds=value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidSchedule(f"{what} must be a timedelta or a number of seconds, not {value!r}") from None
