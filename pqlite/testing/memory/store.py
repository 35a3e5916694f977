"""MemoryJobStore: what JobStore promises, without a database. What is done to the table is in acts.py.

(Over 300 lines because it is one class with an act for each verb.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from pqlite.errors import ConfigurationError, DedupeKeyBusy, LeaseLost, NotStarted
from pqlite.events import Observer
from pqlite.job import Enqueued, Job, JobStatus, NewJobs
from pqlite.outcome import Outcome, Verdict
from pqlite.store.awaiting import Ended, Poller
from pqlite.store.base import NOT_STARTED, JobStore
from pqlite.store.batches import CHUNK, IdTypes, checked_row, verdict_on
from pqlite.store.columns import KEY
from pqlite.store.engine import SettleAnswer
from pqlite.store.pausing import Scope
from pqlite.store.specs import EnqueueMiddleware
from pqlite.store.validation import Row
from pqlite.store.writer import Answer
from pqlite.testing.memory import acts
from pqlite.testing.memory.clock import Clock
from pqlite.testing.memory.connection import MemoryConnection, transaction_of
from pqlite.testing.memory.schedules import MemorySchedules
from pqlite.testing.memory.settling import settle
from pqlite.testing.memory.table import ACTIVE, Locked, Table, Transaction, read

T = TypeVar("T")

KEY_WAIT = 5.0
LOCK_WAIT = 10.0
MOST_PAUSE = 0.05
NO_PAUSES = "A MemoryJobStore has no pauses: test them on PostgreSQL (the fixture pqlite_store)."


class MemoryJobStore(JobStore):
    """Jobs in memory, for tests. It behaves like a PgJobStore, but has no SQL and no pauses, and its jobs end with the
    process.

    `drain` and `inline` run its jobs. A Worker refuses it; workers are tested on PostgreSQL (the fixture
    `pqlite_store`). It may be used from several event loops and threads at once, and keeps its jobs when it is closed.

    A call that waits for another transaction raises TimeoutError after 10 seconds, so that a test does not hang;
    PostgreSQL would wait for ever, or detect a deadlock.

    Args:
        clock: the store's time; `store.clock.advance(timedelta(hours=1))` makes due what is due in an hour.
        max_payload_bytes, strict, middleware, observers: see PgJobStore.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        max_payload_bytes: int = 1024 * 1024,
        strict: bool = False,
        middleware: Sequence[EnqueueMiddleware] = (),
        observers: Sequence[Observer] = (),
    ) -> None:
        super().__init__(
            watcher=Poller(self._ended, most=MOST_PAUSE),
            max_payload_bytes=max_payload_bytes,
            strict=strict,
            middleware=middleware,
            observers=observers,
        )
        self.clock = clock or Clock()
        self._table = Table(self.clock)
        self._schedule_rows = MemorySchedules(self._table)
        self._started = False

    def __repr__(self) -> str:
        """Say how many jobs there are."""
        return f"<MemoryJobStore jobs={len(self._table.jobs)} started={self.started}>"

    # Lifetime

    @property
    def started(self) -> bool:
        """Return whether the store can be used."""
        return self._started

    async def start(self) -> None:
        """Make the store usable."""
        self._started = True

    async def _close(self) -> None:
        self._started = False

    async def migrate(self) -> list[int]:
        """Do nothing: there is no schema."""
        return []

    # Schedules

    def _schedules(self) -> MemorySchedules:
        self._see_usable()
        return self._schedule_rows

    # Pauses

    async def _pause(self, scope: Scope, name: str, reason: str | None, by: str | None, until: datetime | None) -> None:
        raise ConfigurationError(NO_PAUSES)

    async def _resume(self, scope: Scope, name: str) -> bool:
        raise ConfigurationError(NO_PAUSES)

    async def _pauses(self) -> Sequence[Any]:
        raise ConfigurationError(NO_PAUSES)

    # Connections

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[MemoryConnection]:
        """Yield an object that takes the place of a connection: `conn.transaction()` begins a transaction."""
        self._see_usable()
        conn = MemoryConnection(self._table)
        try:
            yield conn
        finally:
            conn.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryConnection]:
        """Yield such a connection in a transaction; see JobStore.transaction."""
        async with self.connection() as conn, conn.transaction():
            yield conn

    # Enqueue

    async def _lend(self, conn: Any, strict: bool | None, what: str) -> Transaction | None:
        return self._transaction_of(conn, self._strict if strict is None else strict, what)

    def _transaction_of(self, conn: Any, strict: bool, what: str) -> Transaction | None:
        self._see_usable()
        return transaction_of(conn, self._table, strict=strict, what=what)

    async def _insert(self, values: Row, conn: MemoryConnection | None, lent: Transaction | None) -> Answer:
        key = values[KEY]
        if conn is not None and key is not None:
            await conn.before_key(key)
        try:
            return await self._when_free(partial(acts.enqueue, self._table, values, lent), KEY_WAIT)
        except TimeoutError:
            raise DedupeKeyBusy(
                f"A transaction that has not ended holds the dedupe key {key!r}; nothing was enqueued."
            ) from None

    async def _insert_many(
        self,
        jobs: NewJobs,
        conn: MemoryConnection | None,
        lent: Transaction | None,
        progress: Callable[[int, int], None] | None,
    ) -> list[Enqueued[Any]]:
        self._see_usable()
        id_types: IdTypes = {}
        rows = await self._drawn(jobs, id_types)
        if not rows:
            return []
        answers: dict[int, Answer] = {}
        # By key: two batches with the same keys must not wait for each other.
        by_key = sorted(range(len(rows)), key=lambda at: (rows[at][KEY] is not None, rows[at][KEY] or ""))
        async with self.transaction() if conn is None else conn.transaction() as own:
            transaction = self._transaction_of(own, True, "Jobs were enqueued")
            for at in by_key:
                answers[at] = await self._insert(rows[at], own, transaction)
                if progress is not None and (len(answers) % CHUNK == 0 or len(answers) == len(rows)):
                    progress(len(answers), len(rows))
        return [
            verdict_on(at, answers[at].id, answers[at].inserted, id_types, cancelling=answers[at].cancelling)
            for at in range(len(rows))
        ]

    async def _drawn(self, jobs: NewJobs, id_types: IdTypes) -> list[Row]:
        if not isinstance(jobs, AsyncIterable):
            return [checked_row(at, job, self._max_payload_bytes, id_types) for at, job in enumerate(jobs)]
        rows: list[Row] = []
        async for job in jobs:
            rows.append(checked_row(len(rows), job, self._max_payload_bytes, id_types))
        return rows

    async def _locked_by(self, job_id: int, lent: Transaction | None) -> str | None:
        with self._table.lock:
            found = self._table.get(job_id)
        return None if found is None else found.locked_by

    # Look and act

    async def _read(self, job_id: int) -> Job | None:
        with self._locked():
            found = self._table.get(job_id)
        return None if found is None else read(found)

    async def jobs(self, *, conn: Any = None) -> list[Job]:
        """Return all jobs, in the order of their ids; with `conn` as the transaction on it sees them."""
        self._see_usable()
        tx = None if conn is None else self._transaction_of(conn, False, "Jobs were read")
        with self._table.lock:
            seen = self._table.jobs if tx is None else self._table.jobs | tx.rows
            return [read(found) for _, found in sorted(seen.items())]

    async def _ended(self, job_ids: list[int]) -> list[Ended]:
        with self._locked():
            found = {job_id: self._table.get(job_id) for job_id in job_ids}
        return [acts.end_of(job_id, row) for job_id, row in found.items() if row is None or row.status not in ACTIVE]

    async def _cancel(self, job_id: int, lent: Transaction | None) -> JobStatus | None:
        return await self._when_free(partial(acts.cancel, self._table, job_id, lent))

    async def _retry(self, job_id: int) -> JobStatus | None:
        return await self._when_free(partial(acts.retry, self._table, job_id))

    # One job at a time, without a worker

    async def _claim_one(
        self, holder: str, queues: Sequence[str] | None, job_types: Sequence[str] | None
    ) -> Job | None:
        with self._locked():
            found = acts.pickup(self._table, holder, queues, job_types)
        return None if found is None else read(found)

    async def _settle_one(self, outcome: Outcome) -> Verdict:
        return (await self._when_free(partial(settle, self._table, outcome))).verdict

    async def _progress(self, job: Job, progress: str | None) -> Verdict:
        with self._locked():
            return acts.progress(self._table, job, progress)

    async def _reap_stale(self, older_than: timedelta) -> int:
        with self._locked():
            return len(acts.reap_stale(self._table, older_than))

    async def claim_due(
        self, holder: str, queues: Sequence[str] | None, types: Sequence[str], versions: Mapping[str, int]
    ) -> Job | None:
        """Claim the job that `drain` runs next, None if nothing is due."""
        with self._locked():
            found = acts.claim_due(self._table, holder, queues, types, versions)
        return None if found is None else read(found)

    async def settle(self, outcome: Outcome) -> SettleAnswer:
        """Write the outcome of a claim; see Engine.settle."""
        with self._table.lock:
            try:
                return settle(self._table, outcome)
            except Locked:
                return SettleAnswer(outcome.job.id, outcome.job.claims, Verdict.BUSY, JobStatus.RUNNING)

    # Completion in a transaction

    @asynccontextmanager
    async def _completing(self, job: Job, result: str | None) -> AsyncIterator[MemoryConnection]:
        if job.locked_by is None:
            raise LeaseLost(f"Job {job.id} is not claimed.")
        async with self.transaction() as conn:

            async def complete() -> None:
                await self._complete_on(conn, job, result)

            conn.completes(job.dedupe_key, complete)
            yield conn
            await conn.complete()
        job.status = JobStatus.DONE

    async def _complete_on(self, conn: Any, job: Job, result: str | None) -> None:
        tx = self._transaction_of(conn, True, f"Job {job.id} was completed")
        assert tx is not None
        await self._when_free(partial(acts.complete, self._table, tx, job, result))

    async def was_completed(self, job: Job) -> bool:
        """Return whether this claim of the job ended as DONE; see JobStore.was_completed."""
        return await self._when_free(partial(acts.was_completed, self._table, job))

    # Waiting

    def _see_usable(self) -> None:
        if not self._started:
            raise NotStarted(NOT_STARTED)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._see_usable()
        with self._table.lock:
            yield

    async def _when_free(self, act: Callable[[], T], seconds: float | None = None) -> T:
        """Act when no other transaction has locked what the act needs.

        Raises:
            TimeoutError: it was still locked after so many seconds.
        """
        self._see_usable()
        seconds = LOCK_WAIT if seconds is None else seconds
        deadline = time.monotonic() + seconds
        while True:
            try:
                with self._table.lock:
                    return act()
            except Locked as locked:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"An open transaction has held the row or key for {seconds:g} s.") from None
                # Not `wait_for`, which would cancel the future that others wait for as well.
                await asyncio.wait([asyncio.wrap_future(locked.until)], timeout=left)
