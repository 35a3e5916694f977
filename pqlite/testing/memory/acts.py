"""The acts of a store on the table in memory: each function is one, called with the table's lock held, and has a
counterpart in ddl/functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from pydantic_core import to_json

from pqlite.codec import decode
from pqlite.errors import DedupeConflict, JobCancelled, JobNotFound, LeaseLost
from pqlite.job import PAYLOAD_VERSION, Job, JobStatus, TakenOver
from pqlite.outcome import Verdict
from pqlite.store.awaiting import Ended
from pqlite.store.validation import COLUMNS, Row
from pqlite.store.writer import Answer
from pqlite.testing.memory.table import Locked, Table, Transaction

ERRORS_KEPT = 20
ERROR_CHARACTERS = 2000
TAKEN_AT_ONCE = 500

READY, RUNNING, DONE = JobStatus.READY, JobStatus.RUNNING, JobStatus.DONE
FAILED, CANCELLED = JobStatus.FAILED, JobStatus.CANCELLED


def enqueue(table: Table, values: Row, tx: Transaction | None = None) -> Answer:
    """Add a job, unless an active one holds its key.

    Raises:
        Locked: a transaction that has not ended holds the key.
    """
    given = dict(zip(COLUMNS, values, strict=True))
    key = given["dedupe_key"]
    if key is not None and (holder := table.holder_of(key, tx)) is not None:
        cancelling = holder.status is RUNNING and holder.cancel_requested_at is not None
        return Answer(holder.id, False, cancelling)
    now = table.clock.now()
    run_after, delay = given.pop("run_after"), given.pop("delay")
    row = Job(
        id=table.next_id(),
        run_after=(run_after or now) + (delay or timedelta(0)),
        attempts=0,
        claims=0,
        crashes=0,
        created_at=now,
        updated_at=now,
        locked_at=None,
        locked_by=None,
        status=READY,
        **given,
    )
    table.put(row, tx)
    return Answer(row.id, True, False)


def cancel(table: Table, job_id: int, tx: Transaction | None = None) -> JobStatus:
    """Cancel a job, or ask its worker to stop; return its status afterwards."""
    row = _existing(table, job_id, tx)
    now = table.clock.now()
    if row.status in (READY, JobStatus.BLOCKED):
        table.put(replace(row, status=CANCELLED, finished_at=now, updated_at=now), tx)
        return CANCELLED
    if row.status is RUNNING:
        table.put(replace(row, cancel_requested_at=row.cancel_requested_at or now, updated_at=now), tx)
    return row.status


def retry(table: Table, job_id: int) -> JobStatus:
    """Make a job run again; return its status before."""
    row = _existing(table, job_id)
    if row.status in (RUNNING, JobStatus.BLOCKED):
        return row.status
    if row.dedupe_key is not None and (holder := table.holder_of(row.dedupe_key)) is not None and holder.id != job_id:
        raise DedupeConflict(f"A newer active job holds the dedupe key of job {job_id}.")
    now = table.clock.now()
    table.put(
        replace(
            row,
            status=READY,
            run_after=now,
            updated_at=now,
            crashes=0,
            expires_at=None if row.expires_at is None or row.expires_at <= now else row.expires_at,
            max_attempts=max(row.max_attempts, row.attempts + 1),
            finished_at=None,
            cancel_requested_at=None,
        )
    )
    return row.status


def expire(table: Table) -> None:
    """Cancel waiting jobs whose expires_at has passed."""
    now = table.clock.now()
    for row in table.free():
        if row.expires_at is not None and row.expires_at <= now and row.status in (READY, JobStatus.BLOCKED):
            error = f"expired: it was not started before {row.expires_at:%Y-%m-%d %H:%M:%S %Z}"
            table.put(replace(row, status=CANCELLED, finished_at=now, updated_at=now, last_error=error))


def pickup(table: Table, holder: str, queues: Sequence[str] | None, types: Sequence[str] | None) -> Job | None:
    """Claim the best due job; suspects come last."""
    expire(table)
    now = table.clock.now()
    due = [row for row in table.free() if row.status is READY and row.run_after <= now and wanted(row, queues, types)]
    if not due:
        return None
    best = min(due, key=lambda row: (row.crashes > 0, 0 if row.crashes else -row.priority, row.run_after, row.id))
    return claim(table, best, holder, now)


def claim_due(
    table: Table, holder: str, queues: Sequence[str] | None, types: Sequence[str], versions: Mapping[str, int]
) -> Job | None:
    """Claim the job that `drain` runs next: suspects come first, and payloads that are too new are left alone."""
    table.draining.add(holder)
    expire(table)
    now = table.clock.now()
    due = [row for row in table.free() if row.status is READY and row.run_after <= now and wanted(row, queues, types)]
    due = [row for row in due if not too_new(row, versions)]
    if not due:
        return None
    best = min(due, key=lambda row: (row.crashes == 0, -row.priority if not row.crashes else 0, row.run_after, row.id))
    return claim(table, best, holder, now)


def claim(table: Table, row: Job, holder: str, now: datetime) -> Job:
    """Make a row RUNNING for a holder; return it."""
    claimed = replace(
        row,
        status=RUNNING,
        attempts=row.attempts + 1,
        claims=row.claims + 1,
        locked_by=holder,
        locked_at=now,
        updated_at=now,
        finished_at=None,
        duration_ms=None,
        progress=None,
    )
    table.put(claimed)
    return claimed


def complete(table: Table, tx: Transaction, job: Job, result: str | None) -> None:
    """Make a claimed job DONE in a transaction.

    Raises:
        LeaseLost, JobCancelled: it cannot be; the transaction has failed.
        Locked: another transaction has the row.
    """
    row = table.for_update(job.id, tx)
    if row is None or job.locked_by is None or (row.locked_by, row.claims) != (job.locked_by, job.claims):
        tx.fail()
        raise LeaseLost(f"The claim on job {job.id} is no longer current; nothing was written.")
    if row.cancel_requested_at is not None:
        tx.fail()
        raise JobCancelled(f"Job {job.id} was asked to cancel; nothing was written.")
    now = table.clock.now()
    assert row.locked_at is not None
    took = int((now - row.locked_at).total_seconds() * 1000)
    done = replace(row, result=result, finished_at=now, last_error=None, duration_ms=took)
    table.put(given_back(done, DONE, now), tx)


def progress(table: Table, job: Job, value: str | None) -> Verdict:
    """Store the progress of a claimed job."""
    row = table.get(job.id)
    if row is None or row.status is not RUNNING or (row.locked_by, row.claims) != (job.locked_by, job.claims):
        return Verdict.FENCED
    try:
        table.see_free(job.id)
    except Locked:
        return Verdict.BUSY
    table.put(replace(row, progress=value, updated_at=table.clock.now()))
    return Verdict.WRITTEN


def given_back(row: Job, status: JobStatus, now: datetime) -> Job:
    """Return a row that is not locked by a holder any more."""
    return replace(row, status=status, locked_by=None, locked_at=None, updated_at=now)


def with_error(row: Job, error: str, now: datetime) -> list[dict[str, Any]]:
    """Return the row's history of errors with one more: the latest are kept, and the end of each."""
    entry = {"at": now.isoformat(), "error": error[-ERROR_CHARACTERS:], "attempt": row.attempts}
    return [*row.errors, entry][-ERRORS_KEPT:]


def take_over(table: Table, rows: Iterable[Job], reason: str) -> list[TakenOver]:
    """Give back what a dead or unknown holder had: it counts as an attempt, and makes the job suspect."""
    now = table.clock.now()
    taken = []
    for row in rows:
        asked = row.cancel_requested_at is not None
        status = CANCELLED if asked else FAILED if row.attempts >= row.max_attempts else READY
        error = f"{reason} ({row.locked_by})"
        changed = replace(
            row,
            finished_at=None if status is READY else now,
            crashes=row.crashes + 1,
            last_error=error,
            errors=with_error(row, error, now),
        )
        table.put(given_back(changed, status, now))
        taken.append(TakenOver(row.id, row.job_type, row.queue, status, row.attempts, row.locked_by or ""))
    return taken


def reap_stale(table: Table, stale_after: timedelta) -> list[TakenOver]:
    """Take over RUNNING jobs by age, but for those of a drain."""
    now = table.clock.now()

    def is_stale(row: Job) -> bool:
        if row.status is not RUNNING or row.locked_at is None or row.locked_by in table.draining:
            return False
        limit = stale_after.total_seconds() if row.timeout_seconds is None else min(row.timeout_seconds, 1e9)
        return (now - row.locked_at).total_seconds() > limit

    return take_over(table, _first(table, is_stale, TAKEN_AT_ONCE), "abandoned")


def wanted(row: Job, queues: Sequence[str] | None, types: Sequence[str] | None) -> bool:
    """Return whether a row is of these queues and types; None: of any."""
    return (queues is None or row.queue in queues) and (types is None or row.job_type in types)


def too_new(row: Job, versions: Mapping[str, int] | None) -> bool:
    """Return whether a row's payload is newer than what is known of its type."""
    if not versions or row.job_type not in versions:
        return False
    version = decode(row.metadata).get(PAYLOAD_VERSION)  # type: ignore[arg-type]  # a row's is text
    number = isinstance(version, int | float) and not isinstance(version, bool)
    return number and version > versions[row.job_type]


def was_completed(table: Table, job: Job) -> bool:
    """Return whether this claim of the job ended as DONE; also if the job was pruned.

    Raises:
        Locked: a transaction that has not ended may still decide it.
    """
    table.see_free(job.id)
    row = table.get(job.id)
    return row is None or (row.status is DONE and row.claims == job.claims)


def end_of(job_id: int, found: Job | None) -> Ended:
    """Return how a job has ended, or that there is none."""
    if found is None:
        return Ended(job_id, None, None, None, None)
    return Ended(job_id, found.status, found.result, found.last_error, to_json(found.errors).decode())


def _existing(table: Table, job_id: int, tx: Transaction | None = None) -> Job:
    if (row := table.for_update(job_id, tx)) is None:
        raise JobNotFound(f"There is no job {job_id}.")
    return row


def _first(table: Table, matches: Callable[[Job], bool], most: int) -> list[Job]:
    return [row for row in table.free() if matches(row)][:most]
