"""Rows to jobs, by position: decoding is per job, so that one job that cannot be decoded is one job's failure."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from pqlite.job import Job, JobStatus, TakenOver
from pqlite.store.encoding import decode


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
    try:
        payload, metadata = from_json(r[3]), {} if r[15] is None else from_json(r[15])
    except ValueError as error:
        payload, metadata = Undecodable(error), {}
    # By position, in the order of Job's fields: naming them costs a microsecond a job.
    return Job(
        r[1],
        r[2],
        payload,
        r[4],
        r[5],
        r[6],
        r[7],
        r[8],
        r[9],
        r[10],
        r[11],
        r[12],
        r[13],
        r[14] or [],
        metadata,
        r[16],
        r[17],
        holder,
        JobStatus.RUNNING,
        r[18],
    )


def taken_over(r: Any) -> TakenOver:
    """Return the verdict of a row of `Statements.reap`."""
    return TakenOver(r[0], r[1], r[2], JobStatus(r[3]), r[4], r[5])
