"""What waits, runs and has lately ended, counted by bounded reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pqlite.operations.answers import Count

CAP = 10_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """The READY jobs of one queue and job type, without suspects."""

    queue: str
    job_type: str
    due: Count
    later: Count
    oldest_due_seconds: float | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The jobs of one type that ended in the last hour, or since `Stats.since_minutes`.

    `done_1` and `done_5` count those of the last minute and 5 minutes. Times are seconds, percentiles of the DONE jobs:
    how long they ran (`run_p50`), and how long they were due before they started (`wait_p50`).
    """

    job_type: str
    done_1: int
    done_5: int
    done_60: int
    failed_60: int
    cancelled_60: int
    run_p50: float | None
    run_p95: float | None
    run_p99: float | None
    wait_p50: float | None
    wait_p95: float | None
    wait_p99: float | None


@dataclass(frozen=True, slots=True)
class Failures:
    """How many jobs of a type FAILED in the last hour with one class of error."""

    job_type: str
    error: str
    number: int


@dataclass(frozen=True, slots=True)
class Stats:
    """The state of all queues.

    `more_lanes`: there are more than 500 lanes (queue, job type, priority), and the others are not in `waiting`.
    `since_minutes`: DONE jobs are counted among the 20,000 newest jobs; the oldest of those is so many minutes old, or
    that covers the hour (60).
    """

    waiting: list[Waiting]
    more_lanes: bool
    running: Count
    running_by_type: dict[str, int]
    blocked: Count
    suspects: Count
    ended: list[Ended]
    since_minutes: float
    failures: list[Failures]

    @property
    def oldest_due_seconds(self) -> float | None:
        """Return for how long the job that waits longest has been due."""
        return max(
            (each.oldest_due_seconds for each in self.waiting if each.oldest_due_seconds is not None), default=None
        )


def stats_from_json(value: Any) -> Stats:
    """Return the stats that pqlite.stats returned."""
    waiting = [
        Waiting(row["queue"], row["job_type"], _count(row["due"]), _count(row["later"]), row["oldest_due_seconds"])
        for row in value["waiting"]
    ]
    return Stats(
        waiting=waiting,
        more_lanes=value["more_lanes"],
        running=_count(value["running"]),
        running_by_type=value["running_by_type"],
        blocked=_count(value["blocked"]),
        suspects=_count(value["suspects"]),
        ended=[Ended(**row) for row in value["ended"]],
        since_minutes=value["since_minutes"],
        failures=[Failures(**row) for row in value["failures"]],
    )


def _count(number: int) -> Count:
    return Count(min(number, CAP), number > CAP)
