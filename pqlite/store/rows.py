"""Rows to jobs, by position: decoding is per job, so that one job that cannot be decoded is one job's failure."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from pqlite.job import Job, JobStatus, TakenOver
from pqlite.store.encoding import decode

_RUNNING = JobStatus.RUNNING


def job_from_row(r: Any) -> Job:
    """Return the job of a row of `Statements.get`."""
    return Job(
        id=r[0],
        job_type=r[1],
        payload=decode(r[2]),
        queue=r[3],
        priority=r[4],
        run_after=r[5],
        attempts=r[6],
        max_attempts=r[7],
        claims=r[8],
        crashes=r[9],
        timeout_seconds=r[10],
        dedupe_key=r[11],
        concurrency_key=r[12],
        tags=r[13],
        metadata=decode(r[14]),
        created_at=r[15],
        locked_at=r[16],
        locked_by=r[17],
        status=JobStatus(r[18]),
        cancel_requested_at=r[19],
        updated_at=r[20],
        finished_at=r[21],
        expires_at=r[22],
        duration_ms=r[23],
        waiting_on=r[24],
        progress=decode(r[25]),
        result=decode(r[26]),
        last_error=r[27],
        errors=decode(r[28]),
    )


class Undecodable:
    """Stands in for a payload that Python cannot read (SQL can store an integer of 5,000 digits)."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def claimed_job(r: Any, holder: str) -> Job:
    """Return the job of a row of `Statements.claim`; a payload that cannot be read becomes `Undecodable`."""
    # Unpacked, and passed by position in the order of Job's fields: names would cost half a microsecond a job.
    (
        job_id,
        job_type,
        payload,
        queue,
        priority,
        run_after,
        attempts,
        max_attempts,
        claims,
        crashes,
        timeout_seconds,
        dedupe_key,
        concurrency_key,
        tags,
        metadata,
        created_at,
        locked_at,
        cancel_requested_at,
        _,
    ) = r
    try:
        payload, metadata = from_json(payload), {} if metadata is None else from_json(metadata)
    except ValueError as error:
        payload, metadata = Undecodable(error), {}
    return Job(
        job_id,
        job_type,
        payload,
        queue,
        priority,
        run_after,
        attempts,
        max_attempts,
        claims,
        crashes,
        timeout_seconds,
        dedupe_key,
        concurrency_key,
        tags or [],
        metadata,
        created_at,
        locked_at,
        holder,
        _RUNNING,
        cancel_requested_at,
    )


def taken_over(r: Any) -> TakenOver:
    """Return the verdict of a row of `Statements.reap`."""
    return TakenOver(r[0], r[1], r[2], JobStatus(r[3]), r[4], r[5])
