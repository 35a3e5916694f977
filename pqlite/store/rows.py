"""Turns rows into jobs. Each job is decoded by itself, so that JSON that cannot be read affects only its own job."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from pqlite.job import Job, JobStatus, TakenOver

_RUNNING = JobStatus.RUNNING


class Undecodable:
    """Takes the place of JSON that Python cannot read (an integer of 5,000 digits, for example)."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __repr__(self) -> str:
        """Return why it cannot be read."""
        return f"<JSON that cannot be read: {self.error}>"


def job_from_row(r: Any) -> Job:
    """Return the job of a row of `Statements.get`; JSON that cannot be read becomes `Undecodable`."""
    payload, metadata = _decoded(r[2]), _decoded(r[14])
    if isinstance(metadata, Undecodable):
        payload, metadata = metadata, {}
    return Job(
        id=r[0],
        job_type=r[1],
        payload=payload,
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
        metadata=metadata,
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
        progress=_decoded(r[25]),
        result=_decoded(r[26]),
        last_error=r[27],
        errors=_decoded(r[28]),
    )


def _decoded(text: str | None) -> Any:
    try:
        return None if text is None else from_json(text)
    except ValueError as error:
        return Undecodable(error)


def claimed_job(r: Any, holder: str) -> Job:
    """Return the job of a row of `Statements.claim`; a payload that cannot be read becomes `Undecodable`."""
    # Positional arguments, in the order of Job's fields, save half a microsecond for each job.
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
    """Return what a row of `Statements.reap` says."""
    return TakenOver(r[0], r[1], r[2], JobStatus(r[3]), r[4], r[5])
