"""What is kept: rows by id, and the transactions that have not ended. It knows no verb.

Rows are never changed, only replaced, so a reader may keep a row. Their JSON columns are text.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from decimal import Decimal
from typing import Any

from pqlite.codec import decode
from pqlite.job import Job, JobStatus
from pqlite.testing.memory.clock import Clock

ACTIVE = (JobStatus.READY, JobStatus.BLOCKED, JobStatus.RUNNING)


class Locked(Exception):
    """An open transaction has locked a row or a dedupe key."""

    def __init__(self, by: Transaction) -> None:
        super().__init__()
        self.until = by.ended


class Transaction:
    """Row versions that only this transaction sees. Until it ends, no other may change those rows."""

    def __init__(self) -> None:
        self.rows: dict[int, Job] = {}
        self.failed = False
        self.ended: Future[None] = Future()
        """Done when the transaction ends or rolls back to a savepoint. Any event loop may wait for it."""

        self._savepoints: list[dict[int, Job]] = [{}]

    def savepoint(self) -> None:
        """Set a savepoint."""
        self._savepoints.append(self.rows.copy())

    def forget_savepoint(self) -> None:
        """Release the latest savepoint."""
        self._savepoints.pop()

    def go_back(self) -> None:
        """Roll back to the latest savepoint, or to the beginning, and unlock the rows that were locked since."""
        self.rows, self.failed = self._savepoints[-1].copy(), False
        ended, self.ended = self.ended, Future()
        ended.set_result(None)

    def fail(self) -> None:
        """Roll back as after a database error: now only another rollback or the end is possible."""
        self.go_back()
        self.failed = True


class Table:
    """The data of a store in memory. `lock` is held while any of it is read or changed, and nothing is awaited
    meanwhile: other threads have event loops of their own.
    """

    def __init__(self, clock: Clock) -> None:
        self.lock = threading.RLock()
        self.clock = clock
        self.jobs: dict[int, Job] = {}
        self.draining: set[str] = set()
        """The `locked_by` of drains, whose jobs are never taken over by age."""

        self._open: list[Transaction] = []
        self._ids = itertools.count(1)

    def next_id(self) -> int:
        """Return a new id."""
        return next(self._ids)

    # Rows

    def get(self, job_id: int, tx: Transaction | None = None) -> Job | None:
        """Return a row as the transaction (None: any other) sees it."""
        own = None if tx is None else tx.rows.get(job_id)
        return self.jobs.get(job_id) if own is None else own

    def for_update(self, job_id: int, tx: Transaction | None = None) -> Job | None:
        """Lock a row for the transaction, so that it may replace it, and return it.

        Raises:
            Locked: another transaction has locked it.
        """
        self.see_free(job_id, tx)
        row = self.get(job_id, tx)
        if tx is not None and row is not None:
            tx.rows[job_id] = row
        return row

    def see_free(self, job_id: int, tx: Transaction | None = None) -> None:
        """Check that no other transaction has locked a row.

        Raises:
            Locked: one has.
        """
        if (by := self.locked_by(job_id, tx)) is not None:
            raise Locked(by)

    def locked_by(self, job_id: int, tx: Transaction | None = None) -> Transaction | None:
        """Return the other transaction that has locked a row. Rows that another has added cannot be locked."""
        if job_id not in self.jobs:
            return None
        return next((other for other in self._open if other is not tx and job_id in other.rows), None)

    def free(self) -> Iterator[Job]:
        """Yield the rows that no transaction has locked."""
        locked = set().union(*(other.rows for other in self._open))
        return (row for row in tuple(self.jobs.values()) if row.id not in locked)

    def put(self, row: Job, tx: Transaction | None = None) -> None:
        """Add or replace a row."""
        (self.jobs if tx is None else tx.rows)[row.id] = row

    def holder_of(self, key: str, tx: Transaction | None = None) -> Job | None:
        """Return the active job that holds a dedupe key.

        Raises:
            Locked: an open transaction may change which job holds it.
        """
        for other in self._open:
            if other is not tx:
                for row in other.rows.values():
                    before = self.jobs.get(row.id)
                    if _holds(row, key) != (before is not None and _holds(before, key)):
                        raise Locked(other)
        seen = self.jobs if tx is None else self.jobs | tx.rows
        return next((row for row in seen.values() if _holds(row, key)), None)

    # Transactions

    def begin(self) -> Transaction:
        """Begin a transaction."""
        transaction = Transaction()
        self._open.append(transaction)
        return transaction

    def end(self, transaction: Transaction, *, commit: bool) -> None:
        """End a transaction; one that has failed is rolled back."""
        self._open.remove(transaction)
        if commit and not transaction.failed:
            self.jobs.update(transaction.rows)
        transaction.ended.set_result(None)


def _holds(row: Job, key: str) -> bool:
    return row.dedupe_key == key and row.status in ACTIVE


def value_of(text: Any) -> Any:
    """Return JSON text as a value, in the form that PostgreSQL returns it (see `_as_kept`); None for None."""
    return _as_kept(decode(text))


def _as_kept(value: Any) -> Any:
    """Return JSON as jsonb stores it: keys by length, then by bytes; large numbers without an exponent."""
    if isinstance(value, dict):
        return {key: _as_kept(value[key]) for key in sorted(value, key=lambda key: (len(key.encode()), key.encode()))}
    if isinstance(value, list):
        return [_as_kept(item) for item in value]
    if isinstance(value, float):
        return int(Decimal(repr(value))) if "e+" in repr(value) else value or 0.0
    return value


def read(row: Job) -> Job:
    """Return a copy of a row for users, its JSON decoded."""
    return replace(
        row,
        payload=value_of(row.payload),
        metadata=value_of(row.metadata),
        result=value_of(row.result),
        progress=value_of(row.progress),
        tags=list(row.tags),
        errors=[dict(error) for error in row.errors],
    )
