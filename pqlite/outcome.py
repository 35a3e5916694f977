"""How an attempt ended: one value, decided the moment the handler returns or raises."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pqlite.job import Job


class Verb(StrEnum):
    """What is to become of the job."""

    DONE = "DONE"
    RETRY = "RETRY"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SNOOZED = "SNOOZED"
    RELEASED = "RELEASED"


@dataclass(slots=True)
class Outcome:
    """What is to become of a claimed job. `result` is encoded JSON; `delay` is in seconds.

    `committed` says that the handler completed the job in a transaction of its own: there is nothing left to write.
    """

    job: Job
    verb: Verb
    result: str | None = None
    error: str | None = None
    delay: float = 0.0
    duration_ms: int | None = None
    committed: bool = False


class Verdict(StrEnum):
    """What the database says of an outcome that it did not write."""

    ALREADY = "ALREADY"
    BUSY = "BUSY"
    FENCED = "FENCED"
