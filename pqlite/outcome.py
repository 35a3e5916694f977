"""The outcome of an attempt: one value, decided when the handler returns or raises."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from pqlite.job import Job, JobStatus


class Verb(StrEnum):
    """The kind of an outcome."""

    DONE = "DONE"
    RETRY = "RETRY"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SNOOZED = "SNOOZED"
    RELEASED = "RELEASED"


# A tuple, because one is made for every attempt: a frozen dataclass takes almost three times as long to make.
class Outcome(NamedTuple):
    """What the database is to do with a claimed job. `result` is encoded JSON; `delay` is in seconds.

    `committed` means that the handler completed the job in a transaction of its own, so that nothing is left to write.
    """

    job: Job
    verb: Verb
    result: str | None = None
    error: str | None = None
    delay: float = 0.0
    duration_ms: int | None = None
    committed: bool = False

    @property
    def expected(self) -> JobStatus:
        """Return the status that the job will have, unless it is asked to cancel meanwhile."""
        match self.verb:
            case Verb.DONE:
                return JobStatus.DONE
            case Verb.CANCELLED:
                return JobStatus.CANCELLED
            case Verb.FAILED:
                return JobStatus.FAILED
            case Verb.RETRY if self.job.attempts >= self.job.max_attempts:
                return JobStatus.FAILED
            case Verb.RETRY | Verb.SNOOZED | Verb.RELEASED:
                return JobStatus.READY


class Verdict(StrEnum):
    """What the database did with an outcome; see Engine.settle."""

    WRITTEN = "WRITTEN"
    ALREADY = "ALREADY"
    BUSY = "BUSY"
    FENCED = "FENCED"
