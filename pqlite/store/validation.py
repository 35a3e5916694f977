"""Checks jobs and ids before they are sent to the database."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from pqlite.codec import encode
from pqlite.errors import InvalidJob, JobNotFound
from pqlite.job import PAYLOAD_VERSION, NewJob

MAX_DELAY = timedelta(days=36525)
_INT4 = 2**31 - 1
_INT8 = 2**63 - 1

COLUMNS = (
    *("job_type", "payload", "dedupe_key", "run_after", "delay", "priority", "max_attempts", "timeout_seconds"),
    *("queue", "tags", "metadata", "concurrency_key", "expires_at"),
)
"""The columns of a row, in the order of the SQL functions' arguments. JSON is text; `delay` is relative to now."""

Row: TypeAlias = tuple[Any, ...]
"""A job's values in the order of COLUMNS. A plain tuple, because a NamedTuple takes five times as long to create."""


def row(job: NewJob, max_payload_bytes: int) -> Row:
    """Return a job as its row.

    Raises:
        InvalidJob: a field is of a wrong type or out of bounds; the message names it, its value and what is accepted.
    """
    run_after, delay = (None, None) if job.run_after is None else _when(job.run_after)
    # No function calls for fields that are not given: a batch may have a million jobs.
    return (
        name("job_type", job.job_type, 200),
        "{}" if job.payload is None else encode(job.payload, what="payload", max_bytes=max_payload_bytes),
        None if job.dedupe_key is None else name("dedupe_key", job.dedupe_key, 1024),
        run_after,
        delay,
        _integer("priority", job.priority, -_INT4),
        _integer("max_attempts", job.max_attempts, 1),
        None if job.timeout_seconds is None else _timeout(job.timeout_seconds),
        "default" if job.queue == "default" else name("queue", job.queue, 200),
        () if job.tags == () else _tags(job.tags),
        "{}" if job.metadata is None and job.version == 1 else _metadata(job, max_payload_bytes),
        None if job.concurrency_key is None else name("concurrency_key", job.concurrency_key, 1024),
        None if job.expires_at is None else aware("expires_at", job.expires_at),
    )


def name(what: str, value: Any, limit: int) -> str:
    """Return the value if it is a string of 1 to `limit` bytes that PostgreSQL can store.

    Raises:
        InvalidJob: it is not.
    """
    if not isinstance(value, str):
        raise InvalidJob(f"{what} must be a string, not {value!r}")
    if value.isascii() and 0 < len(value) <= limit and "\x00" not in value:
        return value
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
        InvalidJob: one is not a name, or `values` is not a list (a string is refused, too).
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InvalidJob(f"{what} must be a list of names, not {values!r}")
    return [name(f"an element of {what}", value, limit) for value in values]


def checked_id(value: Any) -> int:
    """Return the value if it can be the id of a job.

    Raises:
        InvalidJob: it is not a whole number.
        JobNotFound: it is out of the range of ids.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidJob(f"a job's id is a whole number, not a {type(value).__name__}")
    if not -_INT8 <= value <= _INT8:
        raise JobNotFound(f"There is no job {value}.")
    return value


def milliseconds(what: str, value: Any) -> int | None:
    """Return a duration in whole milliseconds (0 if it is negative), or None.

    Raises:
        InvalidJob: it is not a number.
    """
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or math.isnan(value):
        raise InvalidJob(f"{what} must be a number of milliseconds, not {value!r}")
    return int(max(0, min(value, _INT4)))


def duration(what: str, value: Any) -> timedelta:
    """Return the value if it is a timedelta.

    Raises:
        InvalidJob: it is not.
    """
    if not isinstance(value, timedelta):
        raise InvalidJob(f"{what} must be a timedelta, not {value!r}")
    return value


def _integer(what: str, value: Any, low: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= _INT4:
        raise InvalidJob(f"{what} must be a whole number from {low} to {_INT4}, not {value!r}")
    return value


def _timeout(value: Any) -> float:
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


def _metadata(job: NewJob, max_bytes: int) -> str:
    metadata: Any = {} if job.metadata is None else job.metadata
    if isinstance(metadata, Mapping):
        metadata = dict(metadata)
        if job.version != 1:
            metadata[PAYLOAD_VERSION] = _integer("version", job.version, 1)
    text = encode(metadata, what="metadata", max_bytes=max_bytes)
    if not text.startswith("{"):
        raise InvalidJob(f"metadata must be a JSON object, not {metadata!r}")
    return text


def _when(value: Any) -> tuple[datetime | None, timedelta | None]:
    if isinstance(value, timedelta):
        # Sent as an interval, because the server's clock decides when the job is due.
        if value > MAX_DELAY:
            raise InvalidJob(f"run_after is {value!r}; a job waits 100 years at most")
        return None, max(value, timedelta(0))
    return aware("run_after", value), None


def aware(what: str, value: Any) -> datetime:
    """Return a time with its zone, in UTC; a naive one is local time.

    Raises:
        InvalidJob: it is not a datetime, or out of bounds.
    """
    if not isinstance(value, datetime):
        raise InvalidJob(f"{what} must be a datetime or a timedelta, not {value!r}")
    try:
        # In UTC, because in other zones two times that differ only in `fold` compare as equal.
        aware = value.astimezone(UTC)
        if not 1900 <= aware.year <= 9998:
            raise OverflowError
    except (OverflowError, ValueError, OSError):
        raise InvalidJob(f"{what} is {value!r}, which is out of bounds") from None
    return aware
