"""Outcomes to rows, under the fence; ddl/functions/settle.sql in memory. Called with the table's lock held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from pqlite.job import Job, JobStatus
from pqlite.outcome import Outcome, Verb, Verdict
from pqlite.store.engine import Answer
from pqlite.store.pg_engine import MAX_DURATION_MS
from pqlite.testing.memory import verbs
from pqlite.testing.memory.table import Table

READY, RUNNING = JobStatus.READY, JobStatus.RUNNING


def settle(
    table: Table, holder: str, outcomes: Sequence[Outcome], *, keep_done: bool = True, statuses: bool = False
) -> list[Answer]:
    """Write outcomes of one holder's claims; return those that were not written, and with `statuses` those that were
    and are not DONE.
    """
    now = table.clock.now()
    answers = []
    for outcome in sorted(outcomes, key=lambda o: (o.job.id, o.job.claims)):
        job, row = outcome.job, table.get(outcome.job.id)
        if row is not None and (row.locked_by, row.claims) == (holder, job.claims):
            if table.locked_by(row.id) is not None:
                answers.append(Answer(job.id, job.claims, Verdict.BUSY, row.status))
            elif outcome.verb is Verb.DONE and not keep_done:
                del table.jobs[row.id]
            else:
                settled = _settled(row, outcome, now)
                table.put(settled)
                if statuses and outcome.verb is not Verb.DONE:
                    answers.append(Answer(job.id, job.claims, Verdict.WRITTEN, settled.status))
        elif row is None and outcome.verb is Verb.DONE and not keep_done:
            answers.append(Answer(job.id, job.claims, Verdict.ALREADY, JobStatus.DONE))
        else:
            status = JobStatus.DONE if row is None else row.status
            answers.append(Answer(job.id, job.claims, _verdict(table, holder, job, row), status))
    if any(outcome.verb is Verb.RELEASED for outcome in outcomes):
        table.notify("rewind")
    return answers


def settle_one(table: Table, outcome: Outcome) -> list[Answer]:
    """Write the outcome of a claim; return it if it was not written.

    Raises:
        Locked: a transaction that has not ended has the row.
    """
    refused = settle(table, outcome.job.locked_by or "", [outcome])
    if refused and refused[0].verdict is Verdict.BUSY:
        table.see_free(outcome.job.id)
    return refused


def _verdict(table: Table, holder: str, job: Job, row: Job | None) -> Verdict:
    if row is None or row.claims != job.claims:
        return Verdict.FENCED
    worker = table.workers.get(holder)
    lives = worker is not None and worker.dead_at is None
    return Verdict.ALREADY if row.status is JobStatus.DONE or (row.status is not RUNNING and lives) else Verdict.FENCED


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
