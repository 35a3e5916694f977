"""Writes an outcome to its row if the claim is current, as settle.sql does. Called with the table's lock held."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from pqlite.job import Job, JobStatus
from pqlite.outcome import Outcome, Verb, Verdict
from pqlite.store.pg_engine import MAX_DURATION_MS
from pqlite.testing.memory import verbs
from pqlite.testing.memory.table import Table

READY = JobStatus.READY


def settle(table: Table, outcome: Outcome) -> Verdict | None:
    """Write the outcome of a claim; return why it was not written, None if it was.

    Raises:
        Locked: a transaction that has not ended has the row.
    """
    job, row = outcome.job, table.get(outcome.job.id)
    if row is None or row.claims != job.claims:
        return Verdict.FENCED
    if row.locked_by is None or row.locked_by != job.locked_by:
        told_before = row.status is not JobStatus.RUNNING and job.locked_by in table.draining
        return Verdict.ALREADY if told_before or row.status is JobStatus.DONE else Verdict.FENCED
    table.see_free(row.id)
    table.put(_settled(row, outcome, table.clock.now()))
    return None


def _settled(row: Job, outcome: Outcome, now: datetime) -> Job:
    verb, delay = outcome.verb, timedelta(milliseconds=int(outcome.delay * 1000))
    status = _status(row, verb)
    changed = replace(
        row,
        attempts=row.attempts - (verb in (Verb.SNOOZED, Verb.RELEASED)),
        run_after=now + delay if status is READY and verb in (Verb.RETRY, Verb.SNOOZED) else row.run_after,
        finished_at=None if status is READY else now,
        result=outcome.result if verb is Verb.DONE or outcome.result is not None else row.result,
        last_error=None if verb is Verb.DONE else row.last_error if outcome.error is None else outcome.error,
        errors=row.errors if outcome.error is None else verbs.with_error(row, outcome.error, now),
        duration_ms=row.duration_ms if outcome.duration_ms is None else min(outcome.duration_ms, MAX_DURATION_MS),
    )
    return verbs.given_back(changed, status, now)


def _status(row: Job, verb: Verb) -> JobStatus:
    if verb is Verb.DONE:
        return JobStatus.DONE
    if verb is Verb.CANCELLED or row.cancel_requested_at is not None:
        return JobStatus.CANCELLED
    if verb is Verb.FAILED or (verb is Verb.RETRY and row.attempts >= row.max_attempts):
        return JobStatus.FAILED
    return READY
