"""Asserts that a job was enqueued, and shows the most similar jobs if not."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from dataclasses import fields
from typing import Any

from pqlite.codec import encode
from pqlite.job import Job, NewJob
from pqlite.schema import render
from pqlite.store.connections import lent
from pqlite.store.postgres import PgJobStore
from pqlite.store.rows import job_from_row
from pqlite.store.statements import JOB_COLUMNS
from pqlite.testing.memory import MemoryJobStore

ANYTHING: Any = object()
SHOWN = 3

_EVERY_JOB = f"select {JOB_COLUMNS} from pqlite.jobs order by id"  # noqa: S608 - constant text
_NAMES = frozenset(field.name for field in fields(Job))


async def jobs_of(store: PgJobStore | MemoryJobStore, *, conn: Any = None) -> list[Job]:
    """Return all jobs of a store, in the order of their ids; with `conn` as the transaction on it sees them."""
    if isinstance(store, MemoryJobStore):
        return await store.jobs(conn=conn)
    sql = render(_EVERY_JOB, store.schema)
    if conn is not None:
        return [job_from_row(row) for row in await (await lent(conn)).fetch(sql)]
    async with store.connection() as own:
        return [job_from_row(row) for row in await own.fetch(sql)]


async def assert_enqueued(
    store: PgJobStore | MemoryJobStore,
    job: str | NewJob,
    *,
    payload: Any = ANYTHING,
    count: int | None = None,
    conn: Any = None,
    **expected: Any,
) -> list[Job]:
    """Return the jobs of a type that match, in whatever status.

        await assert_enqueued(store, "mail", payload={"to": 7}, queue="slow", count=1)
        await assert_enqueued(store, send_welcome.new(user), priority=5)

    Args:
        job: their type; or a job (`NewJob`, `handler.new(...)`), whose type and payload they have.
        payload: anything that can be enqueued; equal as JSON.
        count: exactly so many, 0 for none; by default at least one.
        conn: look at what the transaction on this connection sees (as for `enqueue`).
        expected: further fields of Job, compared by ==.

    Raises:
        AssertionError: there are not so many; the message says how those that there are differ.
    """
    if isinstance(job, NewJob):
        job_type, payload = job.job_type, job.payload if payload is ANYTHING else payload
    elif isinstance(job, str):
        job_type = job
    else:
        raise TypeError(f"Not the name of a job type, and no job: {job!r}")
    if unknown := sorted(expected.keys() - _NAMES):
        raise TypeError(f"A job has no {unknown[0]!r}; it has {', '.join(sorted(_NAMES))}")
    if payload is not ANYTHING:
        expected["payload"] = {} if payload is None else json.loads(encode(payload, what="payload", max_bytes=1 << 30))
    jobs = await jobs_of(store, conn=conn)
    same_type = [job for job in jobs if job.job_type == job_type]
    found = [job for job in same_type if not _differences(job, expected)]
    if len(found) == count or (count is None and found):
        return found
    wanted = "at least one job" if count is None else f"{count} job{'' if count == 1 else 's'}"
    like = "".join(f", {name}={value!r}" for name, value in expected.items())
    lines = [f"Expected {wanted} of type {job_type!r}{like}; found {len(found)}."]
    if found:
        lines += [f"  job {job.id}: {job.status}, payload={job.payload!r}" for job in found[:SHOWN]]
    elif same_type:
        lines += _described(same_type, expected)
    else:
        types = Counter(job.job_type for job in jobs)
        lines.append("Enqueued were: " + (", ".join(f"{n} {name!r}" for name, n in types.items()) or "none at all"))
    raise AssertionError("\n".join(lines))


def _described(jobs: list[Job], expected: dict[str, Any]) -> list[str]:
    """Return how the most similar jobs differ."""
    lines = []
    for job in sorted(jobs, key=lambda job: len(_differences(job, expected)))[:SHOWN]:
        lines.append(f"Job {job.id} differs:")
        for name in _differences(job, expected):
            lines += [f"  {name}:", *_diff(expected[name], getattr(job, name))]
    if len(jobs) > SHOWN:
        lines.append(f"... and {len(jobs) - SHOWN} more of this type.")
    return lines


def _differences(job: Job, expected: dict[str, Any]) -> list[str]:
    return [name for name, value in expected.items() if getattr(job, name) != value]


def _diff(expected: Any, actual: Any) -> list[str]:
    try:
        wanted, there = (json.dumps(v, indent=2, sort_keys=True, default=str).splitlines() for v in (expected, actual))
    except TypeError:  # keys that cannot be sorted
        wanted = there = []
    if wanted == there:  # a tuple and a list, or a model and its JSON form
        wanted, there = [repr(expected)], [repr(actual)]
    return [f"    {line}" for line in difflib.ndiff(wanted, there) if not line.startswith("?")]
