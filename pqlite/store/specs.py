"""Turns the arguments of `enqueue` and `enqueue_many` into the jobs to write."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, TypeAlias

from pqlite.callables import listed
from pqlite.errors import ConfigurationError, InvalidJob
from pqlite.events import EnqueuedJob
from pqlite.job import Enqueued, JobOptions, NewJob, NewJobs, TypedJob, unknown_names

EnqueueMiddleware: TypeAlias = Callable[[NewJob], NewJob]
"""Called with each job before it is checked and written. Returns the job, changed or not, or another job. It must not
block. It gets a shallow copy of the caller's job: it may set a new payload, but must not modify the given one. If it
raises, `enqueue` raises the same, and nothing is written.
"""


def layers(middleware: Sequence[EnqueueMiddleware]) -> tuple[EnqueueMiddleware, ...]:
    """Check the middleware that a store was given and return it.

    Raises:
        ConfigurationError: it is not a list of functions.
    """
    functions: tuple[EnqueueMiddleware, ...] = listed("middleware", middleware)
    for each in functions:
        if not callable(each):
            raise ConfigurationError(f"middleware must be functions of a NewJob, not {each!r}")
    return functions


class Noted:
    """Records the types and queues of a batch's jobs, as the last of its middleware."""

    def __init__(self) -> None:
        self._kinds: list[tuple[str, str]] = []

    def note(self, job: NewJob) -> NewJob:
        """Record a job and return it."""
        self._kinds.append((job.job_type, job.queue))
        return job

    def enqueued(self, verdicts: Sequence[Enqueued[int]]) -> list[EnqueuedJob]:
        """Return the recorded jobs with their verdicts."""
        return [EnqueuedJob(v.id, *kind, v.inserted) for v, kind in zip(verdicts, self._kinds, strict=True)]


def specified(job: str | NewJob, payload: Any, options: JobOptions) -> NewJob:
    """Return the arguments of `enqueue` as a job. Options replace those of a given job.

    Raises:
        InvalidJob: a payload was given with a whole job, or `job` is neither a job nor a name.
        TypeError: there is no such option.
    """
    if not isinstance(job, (str, NewJob)):
        raise InvalidJob(f"job_type must be a string, or a job such as handler.new(...) returns, not {job!r}")
    if payload is not None and isinstance(job, NewJob):
        raise InvalidJob(f"{job.job_type!r} has its payload already: enqueue(job, ...) takes options only")
    try:
        if isinstance(job, str):
            return NewJob(job_type=job, payload=payload, **options)
        return job.with_options(**options) if options else job
    except TypeError:
        unknown = unknown_names(options, JobOptions.__annotations__)
        raise TypeError(
            f"enqueue has no option {unknown} What the handler needs is the payload: "
            "enqueue(job_type, {...}), or handler.new(...)"
        ) from None


def several(jobs: NewJobs) -> NewJobs:
    """Check that `enqueue_many` was given several jobs, and return them.

    Raises:
        InvalidJob: it was given one job.
    """
    if isinstance(jobs, (NewJob, Mapping)):
        raise InvalidJob("enqueue_many takes several jobs, such as a list; enqueue takes one")
    return jobs


def typed_id(job: NewJob, job_id: int) -> int:
    """Return the id of an enqueued job; if a handler made the job, as its JobId."""
    return job.id_type(job_id) if isinstance(job, TypedJob) else job_id


def passed_through(middleware: Sequence[EnqueueMiddleware], job: NewJob) -> NewJob:
    """Return what the middleware makes of a job, called in the order given.

    Raises:
        InvalidJob: one of them did not return a job.
    """
    job = copy(job)
    for each in middleware:
        job = each(job)
        if not isinstance(job, NewJob):
            raise InvalidJob(f"the enqueue middleware {each!r} must return a NewJob, not {job!r}")
    return job


def all_passed_through(middleware: Sequence[EnqueueMiddleware], jobs: NewJobs) -> NewJobs:
    """Return the jobs, each passed through the middleware when it is iterated."""
    if isinstance(jobs, AsyncIterable):
        return _each_async(middleware, jobs)
    return _each(middleware, jobs)


def _each(
    middleware: Sequence[EnqueueMiddleware], jobs: Iterable[NewJob | Mapping[str, Any]]
) -> Iterator[NewJob | Mapping[str, Any]]:
    for job in jobs:
        yield _one(middleware, job)


async def _each_async(
    middleware: Sequence[EnqueueMiddleware], jobs: AsyncIterable[NewJob | Mapping[str, Any]]
) -> AsyncIterator[NewJob | Mapping[str, Any]]:
    async for job in jobs:
        yield _one(middleware, job)


def _one(middleware: Sequence[EnqueueMiddleware], job: NewJob | Mapping[str, Any]) -> NewJob | Mapping[str, Any]:
    if not isinstance(job, NewJob):
        try:
            job = NewJob(**job)
        except TypeError:
            return job  # batches.checked_row raises the error, with the position
    return passed_through(middleware, job)
