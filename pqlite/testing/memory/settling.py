"""Writes an outcome to its row if the claim is current, as settle.sql does. Called with the table's lock held."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from pqlite.job import Job, JobStatus
from pqlite.outcome import Outcome, Verb, Verdict
from pqlite.store.engine import MAX_DURATION_MS, SettleAnswer
from pqlite.testing.memory import acts
from pqlite.testing.memory.table import Table

READY = JobStatus.READY


def settle(table: Table, outcome: Outcome) -> SettleAnswer:
    """Write the outcome of a claim, or return why it was not written; see Engine.settle.

    Raises:
        Locked: a transaction that has not ended has the row.
    """
    job, row = outcome.job, table.get(outcome.job.id)
    if row is None:
        return SettleAnswer(job.id, job.claims, Verdict.FENCED, JobStatus.DONE)
    if row.locked_by is None or (row.locked_by, row.claims) != (job.locked_by, job.claims):
        told_before = row.status is not JobStatus.RUNNING and job.locked_by in table.draining
        already = row.claims == job.claims and (told_before or row.status is JobStatus.DONE)
        return SettleAnswer(job.id, job.claims, Verdict.ALREADY if already else Verdict.FENCED, row.status)
    table.see_free(row.id)
    settled = _settled(row, outcome, table.clock.now())
    table.put(settled)
    return SettleAnswer(job.id, job.claims, Verdict.WRITTEN, settled.status)


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
        errors=row.errors if outcome.error is None else acts.with_error(row, outcome.error, now),
        duration_ms=row.duration_ms if outcome.duration_ms is None else min(outcome.duration_ms, MAX_DURATION_MS),
    )
    return acts.given_back(changed, status, now)


def _status(row: Job, verb: Verb) -> JobStatus:
    if verb is Verb.DONE:
        return JobStatus.DONE
    if verb is Verb.CANCELLED or row.cancel_requested_at is not None:
        return JobStatus.CANCELLED
    if verb is Verb.FAILED or (verb is Verb.RETRY and row.attempts >= row.max_attempts):
        return JobStatus.FAILED
    return READY
