"""Which jobs an operator means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from pydantic_core import to_json

from pqlite.errors import InvalidJob
from pqlite.job import JobStatus
from pqlite.store.validation import aware


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Jobs that match everything that is given; without arguments all jobs.

    Args:
        status, queue, job_type, tag: one, or several of which one must match.
        key: the dedupe key or the concurrency key.
        worker: the label, or the beginning of the id, of the worker that runs the job. Without `status`, RUNNING jobs.
        schedule: the name of the schedule that made the job.
        payload, metadata: what they must contain, as PostgreSQL's `@>` says.
        error: a part of `last_error`, in upper or lower case.
        created_after, ..., finished_before: times; from the first on, up to but without the second.
        ids: only these jobs.
    """

    status: str | Sequence[str] | None = None
    queue: str | Sequence[str] | None = None
    job_type: str | Sequence[str] | None = None
    tag: str | Sequence[str] | None = None
    key: str | None = None
    worker: str | None = None
    schedule: str | None = None
    payload: Any = None
    metadata: dict[str, Any] | None = None
    error: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    due_after: datetime | None = None
    due_before: datetime | None = None
    finished_after: datetime | None = None
    finished_before: datetime | None = None
    ids: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Check what a typing mistake could change into a filter of other jobs.

        Raises:
            InvalidJob: a status is none, or a time is no datetime.
        """
        wanted = (self.status,) if isinstance(self.status, str) else self.status or ()
        for status in wanted:
            if status not in list(JobStatus):
                raise InvalidJob(f"status must be one of {', '.join(JobStatus)}, not {status!r}")
        for field in fields(self):
            if field.name.endswith(("_after", "_before")) and (time := getattr(self, field.name)) is not None:
                object.__setattr__(self, field.name, aware(field.name, time))

    def to_json(self) -> str:
        """Return the filter as the SQL functions take it."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return to_json({name: value for name, value in values.items() if value is not None}).decode()
