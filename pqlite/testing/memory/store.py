"""MemoryJobStore: what JobStore promises, without a database. The verbs are in verbs.py.

(Over 300 lines because it is a whole public store, half of it signatures and docstrings.)
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Literal, TypeVar, Unpack, overload

from pydantic_core import to_json

from pqlite.codec import encode_clean
from pqlite.errors import DedupeKeyBusy, HeldByCancelledJob, JobNotFound, LeaseLost, NotStarted
from pqlite.events import CancelRequested, EnqueuedJob, JobsEnqueued, Observer, RetryRequested
from pqlite.events.announcer import Announcer
from pqlite.job import Enqueued, Job, JobId, JobOptions, JobOutcome, JobStatus, NewJob, NewJobs, TypedJob, TypedJobs
from pqlite.outcome import Outcome, Verdict
from pqlite.settings import positive
from pqlite.store.awaiting import Ended, Poller, outcome_of, patience
from pqlite.store.batches import CHUNK, IdTypes, checked_row, tell_cancelling, verdict_on
from pqlite.store.by_hand import ByHand
from pqlite.store.columns import KEY
from pqlite.store.engine import Answer
from pqlite.store.scheduling import ScheduleVerbs
from pqlite.store.specs import (
    EnqueueMiddleware,
    Noted,
    all_passed_through,
    layers,
    passed_through,
    several,
    specified,
    typed_id,
)
from pqlite.store.validation import Row, checked_id, duration, name, names, row
from pqlite.testing.memory import verbs
from pqlite.testing.memory.clock import Clock
from pqlite.testing.memory.connection import MemoryConnection, transaction_of
from pqlite.testing.memory.schedules import MemorySchedules
from pqlite.testing.memory.settling import settle
from pqlite.testing.memory.table import ACTIVE, Locked, Table, Transaction, read

R = TypeVar("R")
T = TypeVar("T")

KEY_WAIT = 5.0
DEADLINE = 10.0
MOST_PAUSE = 0.05
NOT_STARTED = "The store is not started: 'await store.start()', or let a worker's lifespan do it."


class MemoryJobStore(ScheduleVerbs):
    """Jobs in memory, for tests: what a PgJobStore promises, but for SQL and for surviving the process.

    What waits for a transaction of another raises TimeoutError after 10 seconds, where PostgreSQL would wait for ever,
    or find a deadlock: a test must not hang.

    Its jobs are run by `drain` and `inline`; a Worker refuses it, and is tested on PostgreSQL (the fixture
    `pqlite_store`). It may be used from several event loops and threads at once. What it holds stays when it is closed,
    and is there when it is started again.

    Args:
        clock: the store's time; `store.clock.advance(timedelta(hours=1))` makes due what is due in an hour.
        max_payload_bytes: a larger payload, or larger metadata, is refused by `enqueue`; a larger result by `complete`
            and `mark_*` (what a handler returns may be larger).
        strict: refuse a `conn=` that is in no transaction, unless the call says otherwise.
        middleware: functions that see, and may change, each job that is enqueued (`(NewJob) -> NewJob`), in order.
        observers: hear of what is enqueued, cancelled and retried; see PgJobStore.
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
        self.clock = clock or Clock()
        self._table = Table(self.clock)
        self._schedule_rows = MemorySchedules(self._table)
        self._max_payload_bytes = positive("max_payload_bytes", max_payload_bytes)
        self._strict = strict
        self._middleware = layers(middleware)
        self.events = Announcer(observers)
        self._by_hand = ByHand(max_payload_bytes)
        self._poller = Poller(self._ended)
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

    async def close(self) -> None:
        """Make it unusable; nothing is lost. Waits up to a second for observers."""
        self._started = False
        await self.events.finish()

    async def __aenter__(self) -> MemoryJobStore:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close."""
        await self.close()

    async def migrate(self) -> list[int]:
        """Do nothing: there is no schema."""
        return []

    # Schedules

    def _schedules(self) -> MemorySchedules:
        self._see_started()
        return self._schedule_rows

    # Connections

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[MemoryConnection]:
        """Yield what stands for a connection: `conn.transaction()` begins a transaction."""
        self._see_started()
        conn = MemoryConnection(self._table)
        try:
            yield conn
        finally:
            conn.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryConnection]:
        """Yield a connection in a transaction: committed when the block ends, undone when it raises."""
        async with self.connection() as conn, conn.transaction():
            yield conn

    # Enqueue

    @overload
    async def enqueue(
        self, job: TypedJob[R], /, *, conn: Any = None, strict: bool | None = None, **options: Unpack[JobOptions]
    ) -> JobId[R]: ...

    @overload
    async def enqueue(
        self, job: NewJob, /, *, conn: Any = None, strict: bool | None = None, **options: Unpack[JobOptions]
    ) -> int: ...

    @overload
    async def enqueue(
        self,
        job_type: str,
        payload: Any = None,
        *,
        conn: Any = None,
        strict: bool | None = None,
        **options: Unpack[JobOptions],
    ) -> int: ...

    async def enqueue(
        self,
        job_type: str | NewJob,
        payload: Any = None,
        *,
        conn: Any = None,
        strict: bool | None = None,
        **options: Unpack[JobOptions],
    ) -> int:
        """Add a job and return its id; see JobStore.enqueue."""
        job = passed_through(self._middleware, specified(job_type, payload, options))
        tx = self._lent(conn, strict, "A job was enqueued")
        enqueued = await self._add(row(job, self._max_payload_bytes), tx)
        if enqueued.cancelling:
            raise HeldByCancelledJob(job.dedupe_key or "", enqueued.id)
        if self.events.wanted:
            one = EnqueuedJob(enqueued.id, job.job_type, job.queue, enqueued.inserted)
            self.events(JobsEnqueued([one], committed=conn is None))
        return typed_id(job, enqueued.id)

    @overload
    async def enqueue_many(
        self,
        jobs: TypedJobs[R],
        *,
        conn: Any = None,
        strict: bool | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Enqueued[JobId[R]]]: ...

    @overload
    async def enqueue_many(
        self,
        jobs: NewJobs,
        *,
        conn: Any = None,
        strict: bool | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Enqueued[int]]: ...

    async def enqueue_many(
        self,
        jobs: NewJobs,
        *,
        conn: Any = None,
        strict: bool | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Enqueued[Any]]:
        """Add many jobs, all or none; see JobStore.enqueue_many."""
        self._lent(conn, strict, "Jobs were enqueued")
        id_types: IdTypes = {}
        noted = Noted() if self.events.wanted else None
        middleware = self._middleware if noted is None else (*self._middleware, noted.note)
        jobs = several(jobs)
        rows = await self._drawn(all_passed_through(middleware, jobs) if middleware else jobs, id_types)
        if not rows:
            return []
        if conn is not None:
            async with conn.transaction():
                verdicts = await self._add_all(rows, conn, progress)
        else:
            async with self.transaction() as own:
                verdicts = await self._add_all(rows, own, progress)
        if noted is not None:
            self.events(JobsEnqueued(noted.enqueued(verdicts), committed=conn is None))
        tell_cancelling(verdicts)
        return [verdict_on(at, v.id, v.inserted, id_types, cancelling=v.cancelling) for at, v in enumerate(verdicts)]

    async def _drawn(self, jobs: NewJobs, id_types: IdTypes) -> list[Row]:
        if not isinstance(jobs, AsyncIterable):
            return [checked_row(at, job, self._max_payload_bytes, id_types) for at, job in enumerate(jobs)]
        rows: list[Row] = []
        async for job in jobs:
            rows.append(checked_row(len(rows), job, self._max_payload_bytes, id_types))
        return rows

    async def _add_all(
        self, rows: list[Row], conn: MemoryConnection, progress: Callable[[int, int], None] | None
    ) -> list[Enqueued[Any]]:
        tx = self._lent(conn, True, "Jobs were enqueued")
        verdicts: dict[int, Enqueued[int]] = {}
        # By key: two batches with the same keys must not wait for each other.
        for at in sorted(range(len(rows)), key=lambda at: (rows[at][KEY] is not None, rows[at][KEY] or "")):
            verdicts[at] = await self._add(rows[at], tx)
            if progress is not None and (len(verdicts) % CHUNK == 0 or len(verdicts) == len(rows)):
                progress(len(verdicts), len(rows))
        return [verdicts[at] for at in range(len(rows))]

    async def _add(self, values: Row, tx: Transaction | None) -> Enqueued[int]:
        try:
            return await self._when_free(partial(verbs.enqueue, self._table, values, tx), KEY_WAIT)
        except TimeoutError:
            key = values[KEY]
            raise DedupeKeyBusy(
                f"A transaction that has not ended holds the dedupe key {key!r}; nothing was enqueued."
            ) from None

    def _lent(self, conn: Any, strict: bool | None, what: str) -> Transaction | None:
        self._see_started()
        if conn is None:
            return None
        return transaction_of(conn, self._table, strict=self._strict if strict is None else strict, what=what)

    # Look and act

    async def get(self, job_id: int) -> Job:
        """Return a job; see JobStore.get."""
        self._see_started()
        with self._table.lock:
            found = self._table.get(checked_id(job_id))
        if found is None:
            raise JobNotFound(f"There is no job {job_id}.")
        return read(found)

    async def jobs(self, *, conn: Any = None) -> list[Job]:
        """Return all jobs, in the order of their ids; with `conn` as the transaction on it sees them."""
        tx = self._lent(conn, False, "Jobs were looked at")
        with self._table.lock:
            seen = self._table.jobs if tx is None else self._table.jobs | tx.rows
            return [read(found) for _, found in sorted(seen.items())]

    @overload
    async def wait_for(
        self,
        job_id: JobId[R],
        *,
        timeout: float | timedelta | None = 30.0,
        poll_interval: float | timedelta = 1.0,
        raise_on_failure: Literal[True] = True,
    ) -> JobOutcome[R]: ...

    @overload
    async def wait_for(
        self,
        job_id: JobId[R],
        *,
        timeout: float | timedelta | None = 30.0,
        poll_interval: float | timedelta = 1.0,
        raise_on_failure: bool,
    ) -> JobOutcome[R | None]: ...

    @overload
    async def wait_for(
        self,
        job_id: int,
        *,
        timeout: float | timedelta | None = 30.0,
        poll_interval: float | timedelta = 1.0,
        raise_on_failure: bool = True,
    ) -> JobOutcome[Any]: ...

    async def wait_for(
        self,
        job_id: int,
        *,
        timeout: float | timedelta | None = 30.0,
        poll_interval: float | timedelta = 1.0,
        raise_on_failure: bool = True,
    ) -> JobOutcome[Any]:
        """Return how a job has ended, when it has; see JobStore.wait_for."""
        longest, most = patience(timeout, poll_interval)
        ended = await self._poller.wait(checked_id(job_id), longest, min(most, MOST_PAUSE))
        return outcome_of(job_id, ended, raise_on_failure=raise_on_failure)

    async def _ended(self, job_ids: list[int]) -> list[Ended]:
        self._see_started()
        with self._table.lock:
            found = {job_id: self._table.get(job_id) for job_id in job_ids}
        return [_end_of(job_id, row) for job_id, row in found.items() if row is None or row.status not in ACTIVE]

    async def cancel(self, job_id: int, *, conn: Any = None, strict: bool | None = None) -> JobStatus:
        """Cancel a job; see JobStore.cancel."""
        tx = self._lent(conn, strict, "A job was cancelled")
        status = await self._when_free(partial(verbs.cancel, self._table, checked_id(job_id), tx))
        if self.events.wanted:
            self.events(CancelRequested(job_id, status, committed=conn is None))
        return status

    async def retry(self, job_id: int) -> JobStatus:
        """Run a job again, now; see JobStore.retry."""
        self._see_started()
        before = await self._when_free(partial(verbs.retry, self._table, checked_id(job_id)))
        status = before if before in (JobStatus.RUNNING, JobStatus.BLOCKED) else JobStatus.READY
        if self.events.wanted:
            self.events(RetryRequested(job_id, status))
        return status

    # One job at a time, without a worker

    async def pickup(
        self, worker_id: str, *, queues: Iterable[str] | None = None, job_types: Iterable[str] | None = None
    ) -> Job | None:
        """Claim the best due job of any type (or of some queues and types); see JobStore.pickup."""
        self._see_started()
        holder = f"{name('worker_id', worker_id, 200)}-{secrets.token_hex(4)}"
        with self._table.lock:
            found = verbs.pickup(
                self._table,
                holder,
                None if queues is None else names("queues", queues, 200),
                None if job_types is None else names("job_types", job_types, 200),
            )
        if found is None:
            return None
        job = read(found)
        self._by_hand.picked_up(job)
        return job

    async def mark_done(self, job: Job | int, *, result: Any = None, duration_ms: float | None = None) -> None:
        """Record that a claimed job is done; see JobStore.mark_done."""
        await self._settle_one(self._by_hand.done(job, result=result, duration_ms=duration_ms))

    async def mark_error(
        self,
        job: Job | int,
        error: str,
        *,
        retry_after: timedelta | None = None,
        terminal: bool = False,
        duration_ms: float | None = None,
        result: Any = None,
    ) -> None:
        """Record that an attempt failed; see JobStore.mark_error."""
        outcome = self._by_hand.error(
            job, error, retry_after=retry_after, terminal=terminal, result=result, duration_ms=duration_ms
        )
        await self._settle_one(outcome)

    async def _settle_one(self, outcome: Outcome) -> None:
        self._see_started()
        claimed = outcome.job
        answer = await self._when_free(partial(settle, self._table, outcome))
        self._by_hand.settled(claimed)
        if answer.verdict is Verdict.FENCED:
            raise LeaseLost(f"The claim on job {claimed.id} is no longer current; nothing was changed.")

    async def reap_stale(self, *, default_stale_after: timedelta = timedelta(minutes=20)) -> int:
        """Give back abandoned RUNNING jobs, by age; see JobStore.reap_stale."""
        older_than = duration("default_stale_after", default_stale_after)
        self._see_started()
        with self._table.lock:
            return len(verbs.reap_stale(self._table, older_than))

    async def claim_due(
        self, holder: str, queues: Sequence[str] | None, types: Sequence[str], versions: Mapping[str, int]
    ) -> Job | None:
        """Claim the job that `drain` runs next, None if nothing is due."""
        self._see_started()
        with self._table.lock:
            found = verbs.claim_due(self._table, holder, queues, types, versions)
        return None if found is None else read(found)

    async def settle(self, outcome: Outcome) -> Answer:
        """Write the outcome of a claim, or say why not; see Engine.settle."""
        with self._table.lock:
            try:
                return settle(self._table, outcome)
            except Locked:
                return Answer(outcome.job.id, outcome.job.claims, Verdict.BUSY, JobStatus.RUNNING)

    # Completion in a transaction

    @asynccontextmanager
    async def complete(self, job: Job, *, result: Any = None) -> AsyncIterator[MemoryConnection]:
        """Yield a connection in a transaction whose last act is to make the job DONE; see JobStore.complete."""
        encoded = encode_clean(result, max_bytes=self._max_payload_bytes)
        if job.locked_by is None:
            raise LeaseLost(f"Job {job.id} is not claimed.")
        async with self.transaction() as conn:
            yield conn
            await self._complete(conn, job, encoded)
        job.status = JobStatus.DONE

    async def complete_on(self, conn: Any, job: Job, *, result: Any = None) -> None:
        """Make the job DONE in the transaction of a connection of the caller's; see JobStore.complete_on."""
        await self._complete(conn, job, encode_clean(result, max_bytes=self._max_payload_bytes))

    async def _complete(self, conn: Any, job: Job, result: str | None) -> None:
        tx = self._lent(conn, True, f"Job {job.id} was completed")
        assert tx is not None
        await self._when_free(partial(verbs.complete, self._table, tx, job, result))

    async def was_completed(self, job: Job) -> bool:
        """Return whether this claim of the job ended as DONE; see JobStore.was_completed."""
        self._see_started()
        return await self._when_free(partial(verbs.was_completed, self._table, job))

    # Waiting

    def _see_started(self) -> None:
        if not self._started:
            raise NotStarted(NOT_STARTED)

    async def _when_free(self, act: Callable[[], T], patience: float | None = None) -> T:
        """Act once no other transaction stands in the way.

        Raises:
            TimeoutError: one does, after so many seconds.
        """
        patience = DEADLINE if patience is None else patience
        deadline = time.monotonic() + patience
        while True:
            try:
                with self._table.lock:
                    return act()
            except Locked as locked:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"A transaction that has not ended was in the way for {patience:g} s.") from None
                # Not `wait_for`: it would cancel the future, which is everybody's.
                await asyncio.wait([asyncio.wrap_future(locked.until)], timeout=left)


def _end_of(job_id: int, found: Job | None) -> Ended:
    if found is None:
        return Ended(job_id, None, None, None, None)
    return Ended(job_id, found.status, found.result, found.last_error, to_json(found.errors).decode())
