"""What an enqueued job must look like, checked before any SQL, so that the caller gets the error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pqlite.errors import InvalidJob
from pqlite.job import NewJob
from pqlite.store.encoding import encode

MAX_DELAY = timedelta(days=36525)
_INT4 = 2**31 - 1


class Row(NamedTuple):
    """A job's columns as the SQL functions take them: JSON as text, a delay beside an absolute time."""

    job_type: str
    payload: str
    dedupe_key: str | None
    run_after: datetime | None
    delay: timedelta | None
    priority: int
    max_attempts: int
    timeout_seconds: float | None
    queue: str
    tags: list[str]
    metadata: str
    concurrency_key: str | None
    expires_at: datetime | None


def row(job: NewJob, max_payload_bytes: int) -> Row:
    """Return a job as its row.

    Raises:
        InvalidJob: a field is of a wrong type or out of bounds; the message names it, its value and what is accepted.
    """
    run_after, delay = _when(job.run_after)
    return Row(
        job_type=name("job_type", job.job_type, 200),
        payload="{}" if job.payload is None else encode(job.payload, what="payload", max_bytes=max_payload_bytes),
        dedupe_key=None if job.dedupe_key is None else name("dedupe_key", job.dedupe_key, 1024),
        run_after=run_after,
        delay=delay,
        priority=_integer("priority", job.priority, -_INT4),
        max_attempts=_integer("max_attempts", job.max_attempts, 1),
        timeout_seconds=_timeout(job.timeout_seconds),
        queue=name("queue", job.queue, 200),
        tags=_tags(job.tags),
        metadata="{}" if job.metadata is None else _metadata(job.metadata, max_payload_bytes),
        concurrency_key=None if job.concurrency_key is None else name("concurrency_key", job.concurrency_key, 1024),
        expires_at=None if job.expires_at is None else _aware("expires_at", job.expires_at),
    )


def name(what: str, value: Any, limit: int) -> str:
    """Return the value if it is a string of 1 to `limit` bytes that PostgreSQL can store.

    Raises:
        InvalidJob: it is not.
    """
    if not isinstance(value, str):
        raise InvalidJob(f"{what} must be a string, not {value!r}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidJob(f"{what} contains a lone surrogate: {value!r}") from None
    if not 1 <= size <= limit:
        raise InvalidJob(f"{what} must be 1 to {limit} bytes long, not {size}: {value[:60]!r}")
    if "\x00" in value:
        raise InvalidJob(f"{what} contains a NUL character: {value!r}")
    return value


def names(what: str, values: Any, limit: int) -> list[str]:
    """Return the values as a list if each is a name.

    Raises:
        InvalidJob: one is not, or they are a string, whose letters would pass for names.
    """
    if isinstance(values, str):
        raise InvalidJob(f"{what} must be a list of names, not the string {values!r}")
    return [name(f"an element of {what}", value, limit) for value in values]


def _integer(what: str, value: Any, low: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= _INT4:
        raise InvalidJob(f"{what} must be a whole number from {low} to {_INT4}, not {value!r}")
    return value


def _timeout(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    try:
        seconds = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or seconds <= 0:
        raise InvalidJob(f"timeout_seconds must be a number above 0, not {value!r}")
    return seconds


def _tags(value: Any) -> list[str]:
    try:
        tags = None if isinstance(value, (str, bytes, Mapping)) else list(value)
    except TypeError:
        tags = None
    if tags is None or not all(isinstance(tag, str) for tag in tags):
        raise InvalidJob(f"tags must be a list of strings, not {value!r}")
    return [name("a tag", tag, 200) for tag in tags]


def _metadata(value: Any, max_bytes: int) -> str:
    text = encode(dict(value) if isinstance(value, Mapping) else value, what="metadata", max_bytes=max_bytes)
    if not text.startswith("{"):
        raise InvalidJob(f"metadata must be a JSON object, not {value!r}")
    return text


def _when(value: Any) -> tuple[datetime | None, timedelta | None]:
    if value is None:
        return None, None
    if isinstance(value, timedelta):
        # Sent as an interval: the server's clock decides when it has passed.
        if value > MAX_DELAY:
            raise InvalidJob(f"run_after is {value!r}; a job waits 100 years at most")
        return None, max(value, timedelta(0))
    return _aware("run_after", value), None


def _aware(what: str, value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise InvalidJob(f"{what} must be a datetime or a timedelta, not {value!r}")
    try:
        aware = value if value.tzinfo is not None else value.astimezone()
        if not 1900 <= aware.year <= 9998:
            raise OverflowError
    except (OverflowError, ValueError, OSError):
        raise InvalidJob(f"{what} is {value!r}, which is out of bounds") from None
    return aware
