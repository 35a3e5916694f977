"""A job as a value: read from the jobs table (Job), to be enqueued (NewJob), and the verdict on it (Enqueued)."""

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
"""The metadata key that holds the version of a job's payload; without it, the version is 1."""


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
    """One job, as it was when it was read. Changing the object changes nothing in the database.

    `attempts` counts starts, including the current one. `claims` counts claims: an outcome is accepted only with the
    current `claims` and `locked_by`. `crashes` counts workers that died while they ran the job. `payload`, `result`,
    `metadata` and `progress` are decoded JSON; a value that Python cannot read, written by SQL, is an object that says
    why. Times are aware datetimes. A claimed job has default values in the fields after `cancel_requested_at`, such as
    `last_error` and `errors`; a handler reads those with `store.get`.
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
    """The id of a job made by a handler's `.new(...)`: an int that also carries the type of the job's result, for
    `store.wait_for` and for type checkers.
    """

    __slots__ = ()

    @classmethod
    def read(cls, result: Any) -> R_co:
        """Return a job's result, a JSON value, converted to the handler's return annotation.

        Raises:
            UnexpectedResult: it does not match. ConfigurationError: the annotation's type cannot be read from JSON.
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
    """The options of a job beside its type and payload; those left out keep their values. See JobStore.enqueue."""

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
    """Return the given names that are unknown, and the closest known ones: for an error's message."""
    unknown = [name for name in given if name not in known]
    close = [match for name in unknown for match in get_close_matches(str(name), list(known), 1, 0.5)]
    advice = f"is it {', '.join(map(repr, close))}?" if close else f"the known ones are {', '.join(known)}."
    return f"{', '.join(map(repr, unknown))}; {advice}"


@dataclass(slots=True, kw_only=True)
class NewJob:
    """A job to enqueue, with `store.enqueue` or `store.enqueue_many`; the fields mean what `enqueue`'s arguments mean.

    `version` is the version of the payload; one above 1 is stored in the job's metadata, as `payload_version`.
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
            TypeError: there is no such option; the message names the closest one.
        """
        try:
            return replace(self, **options)
        except TypeError:
            raise TypeError(f"a job has no option {unknown_names(options, JobOptions.__annotations__)}") from None


@dataclass(slots=True, kw_only=True)
class TypedJob(NewJob, Generic[R_co]):
    """A job made by `handler.new(...)`: its payload is validated, and `R_co` is the type of the handler's result.

    `id_type` is the type of its id after it was enqueued.
    """

    id_type: type[JobId[R_co]] = field(default=cast("Any", JobId), repr=False, compare=False)


NewJobs: TypeAlias = Iterable[NewJob | Mapping[str, Any]] | AsyncIterable[NewJob | Mapping[str, Any]]
"""The argument of `store.enqueue_many`: a list, generator or async generator of jobs, or of mappings with their fields.
"""


TypedJobs: TypeAlias = Iterable[TypedJob[R]] | AsyncIterable[TypedJob[R]]
"""The same, of jobs made by handlers: their ids carry the types of their results."""


class Enqueued(NamedTuple, Generic[Id_co]):
    """The verdict on one job of `store.enqueue_many`: its id, and whether it is new or was active already.

    The id is an int; for a job made by `handler.new(...)` it is a JobId.
    """

    id: Id_co
    inserted: bool

    @property
    def cancelling(self) -> bool:
        """Return whether the job was not enqueued because a job with its key was asked to cancel and still runs.

        Enqueue it again after that job has ended, or the work is not done.
        """
        return False


class EnqueuedBehindCancelled(Enqueued[Id_co]):
    """The verdict whose `cancelling` is True. A class of its own, so that a verdict stays a tuple of two."""

    __slots__ = ()

    @property
    def cancelling(self) -> bool:
        """Return True."""
        return True


class TakenOver(NamedTuple):
    """A job that was taken over from a dead or unregistered worker, with its new status."""

    id: int
    job_type: str
    queue: str
    status: JobStatus
    attempts: int
    locked_by: str


current_job: ContextVar[Job | None] = ContextVar("pqlite_job", default=None)
"""The job whose attempt runs in this context, also in tasks and threads that its handler started; None elsewhere."""
