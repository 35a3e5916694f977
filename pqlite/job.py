"""What a row of the jobs table means."""

from __future__ import annotations

from collections.abc import AsyncIterable, Collection, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Generic, NamedTuple, Self, TypeAlias, TypedDict, TypeVar, Unpack, cast

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Id_co = TypeVar("Id_co", bound=int, covariant=True)

PAYLOAD_VERSION = "payload_version"
"""The key of a job's metadata that says which version of its type's payload it has; without it, it has version 1."""


class JobStatus(StrEnum):
    """The states of a job. A retried or snoozed job is READY with a `run_after` in the future."""

    READY = "READY"
    BLOCKED = "BLOCKED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


@dataclass(slots=True)
class Job:
    """One job, as it was when it was read. Changing it changes nothing in the database.

    `attempts` counts starts, the current one included; `claims` counts every claim and is, with `locked_by`, the
    fence of an outcome; `crashes` counts workers that died holding the job. `payload`, `result`, `metadata` and
    `progress` are decoded JSON (where SQL has put in what Python cannot read, an object that says why). Times are
    aware datetimes. A job that a worker has just claimed carries nothing of what follows `cancel_requested_at`, such
    as `last_error` and `errors`: read it with `store.get` if a handler needs that.
    """

    id: int
    job_type: str
    payload: Any
    queue: str
    priority: int
    run_after: datetime
    attempts: int
    max_attempts: int
    claims: int
    crashes: int
    timeout_seconds: float | None
    dedupe_key: str | None
    concurrency_key: str | None
    tags: list[str]
    metadata: dict[str, Any]
    created_at: datetime
    locked_at: datetime | None
    locked_by: str | None
    status: JobStatus
    cancel_requested_at: datetime | None = None
    updated_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    duration_ms: int | None = None
    waiting_on: int = 0
    progress: Any = None
    result: Any = None
    last_error: str | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)


class JobId(int, Generic[R_co]):
    """The id of a job that a handler's `.new(...)` has made: a plain int wherever it goes, but `store.wait_for` knows
    by it what the job's result is, and so do type checkers.
    """

    __slots__ = ()

    @classmethod
    def read(cls, result: Any) -> R_co:
        """Return a job's result, a JSON value, as what the handler's return annotation says.

        Raises:
            UnexpectedResult: it is nothing of the kind. ConfigurationError: nothing of the kind can be JSON.
        """
        read: R_co = result
        return read

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        """Pickle and copy as a plain int."""
        return int, (int(self),)


@dataclass(frozen=True, slots=True)
class JobOutcome(Generic[R_co]):
    """How a job has ended, DONE, FAILED or CANCELLED: its result if it is DONE, else its errors, one per attempt."""

    id: int
    status: JobStatus
    result: R_co
    last_error: str | None
    errors: list[dict[str, Any]]


class JobOptions(TypedDict, total=False):
    """What can be said of a job beside its type and payload; what is left out keeps its value. See JobStore.enqueue."""

    dedupe_key: str | None
    run_after: datetime | timedelta | None
    priority: int
    max_attempts: int
    timeout_seconds: float | timedelta | None
    queue: str
    tags: Iterable[str]
    metadata: Mapping[str, Any] | None
    concurrency_key: str | None
    expires_at: datetime | None


def unknown_names(given: Iterable[Any], known: Collection[str]) -> str:
    """Return those of the given names that are not known, and which known ones are meant: for an error's message."""
    unknown = [name for name in given if name not in known]
    close = [match for name in unknown for match in get_close_matches(str(name), list(known), 1, 0.5)]
    advice = f"is it {', '.join(map(repr, close))}?" if close else f"there are {', '.join(known)}."
    return f"{', '.join(map(repr, unknown))}; {advice}"


@dataclass(slots=True, kw_only=True)
class NewJob:
    """A job to enqueue, with `store.enqueue` or `store.enqueue_many`; the fields mean what `enqueue`'s arguments mean.

    `version` is that of the payload; one above 1 is kept in the job's metadata, as `payload_version`.
    """

    job_type: str
    payload: Any = None
    dedupe_key: str | None = None
    run_after: datetime | timedelta | None = None
    priority: int = 0
    max_attempts: int = 5
    timeout_seconds: float | timedelta | None = None
    queue: str = "default"
    tags: Iterable[str] = ()
    metadata: Mapping[str, Any] | None = None
    concurrency_key: str | None = None
    expires_at: datetime | None = None
    version: int = 1

    def with_options(self, **options: Unpack[JobOptions]) -> Self:
        """Return a copy with these options instead of its own.

        Raises:
            TypeError: there is no such option; the message has the closest one.
        """
        try:
            return replace(self, **options)
        except TypeError:
            raise TypeError(f"a job has no option {unknown_names(options, JobOptions.__annotations__)}") from None


@dataclass(slots=True, kw_only=True)
class TypedJob(NewJob, Generic[R_co]):
    """A job that `handler.new(...)` has made: its arguments fit, and `R_co` is what its handler will return.

    `id_type` is that of its id, once it is enqueued.
    """

    id_type: type[JobId[R_co]] = field(default=cast("Any", JobId), repr=False, compare=False)


NewJobs: TypeAlias = Iterable[NewJob | Mapping[str, Any]] | AsyncIterable[NewJob | Mapping[str, Any]]
"""What `store.enqueue_many` takes: lists, generators, async generators; of jobs, or of mappings with their fields."""


TypedJobs: TypeAlias = Iterable[TypedJob[R]] | AsyncIterable[TypedJob[R]]
"""The same, of jobs that handlers have made: their ids know their results' types."""


class Enqueued(NamedTuple, Generic[Id_co]):
    """The verdict on one job of `store.enqueue_many`: its id, and whether it is new or was active already.

    The id is an int; of a job that `handler.new(...)` has made, a JobId.
    """

    id: Id_co
    inserted: bool

    @property
    def cancelling(self) -> bool:
        """Return whether the job was not enqueued, and the active job with its key was asked to cancel and still runs:
        then nobody will do the work, unless it is enqueued again after that job has ended.
        """
        return False


class EnqueuedBehindCancelled(Enqueued[Id_co]):
    """The verdict whose `cancelling` is True. A class of its own, so that a verdict stays a pair."""

    __slots__ = ()

    @property
    def cancelling(self) -> bool:
        """Return True."""
        return True


class TakenOver(NamedTuple):
    """A job that was taken from a dead or unknown holder, and what became of it."""

    id: int
    job_type: str
    queue: str
    status: JobStatus
    attempts: int
    locked_by: str


current_job: ContextVar[Job | None] = ContextVar("pqlite_job", default=None)
"""The job whose attempt runs here, in the tasks and threads that its handler started as well; None elsewhere."""
