"""JobStore: each public verb once. Those about schedules are in scheduling.py, those that wait for jobs in
waiting.py, those that pause in pausing.py.

The acts that a backend supplies are declared at the end of the class.

A new verb needs a method here, which checks its arguments, calls an act of the backend and announces an event; an
abstract act at the end of the class; the act in `PgJobStore`, which calls a function of ddl/functions (its statement is
in statements.py); and the act in `MemoryJobStore`. A new option of `enqueue` is a field of `NewJob` (with its
default), `JobOptions` and `Job` in job.py; a name in `COLUMNS` and its check in `row` in validation.py; an argument of
the SQL functions enqueue, enqueue_many, enqueue_keyless and insert_keyed; and a line in the docstring of `enqueue`. The
statements, their defaults and the rows in memory follow from these. To be readable by `get`, it is also selected in
statements.py (`JOB_COLUMNS`) and read in rows.py.

(Over 300 lines because it is the whole public store; most of them are signatures and docstrings.)
"""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Self, TypeVar, Unpack, overload

from pqlite.codec import encode_clean
from pqlite.errors import HeldByCancelledJob, HeldByThisJob, JobNotFound, LeaseLost
from pqlite.events import CancelRequested, EnqueuedJob, JobsEnqueued, Observer, RetryRequested
from pqlite.events.announcer import Announcer
from pqlite.job import Enqueued, Job, JobId, JobOptions, JobStatus, NewJob, NewJobs, TypedJob, TypedJobs
from pqlite.outcome import Outcome, Verdict
from pqlite.settings import positive
from pqlite.store.awaiting import Ended, Poller, Watcher
from pqlite.store.batches import holds_own_key, tell_cancelling
from pqlite.store.by_hand import ByHand
from pqlite.store.pausing import PauseVerbs
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
from pqlite.store.waiting import WaitVerbs
from pqlite.store.writer import Answer

R = TypeVar("R")

NOT_STARTED = "The store is not started: 'await store.start()', or let a worker's lifespan do it."
CLOSED = "The store was closed while a caller waited for a job."


class JobStore(WaitVerbs, PauseVerbs, ScheduleVerbs, ABC):
    """Keeps jobs. Methods may be called from any task of the event loop the store was started in.

    A cancelled call has either happened or not; nothing is ever half done.
    """

    def __init__(
        self,
        *,
        watcher: Watcher | Poller,
        max_payload_bytes: int,
        strict: bool,
        middleware: Sequence[EnqueueMiddleware],
        observers: Sequence[Observer],
    ) -> None:
        self._watcher = watcher
        self._max_payload_bytes = positive("max_payload_bytes", max_payload_bytes)
        self._strict = strict
        self._middleware = layers(middleware)
        self._by_hand = ByHand(max_payload_bytes)
        self._enqueue_listeners: list[Callable[[], None]] = []
        self.events = Announcer(observers)

    # Lifetime

    @property
    @abstractmethod
    def started(self) -> bool:
        """Return whether the store can be used."""

    @abstractmethod
    async def start(self) -> None:
        """Make the store usable. Starting a started store does nothing. This works while the database is away:
        connections are made when first needed.
        """

    async def close(self) -> None:
        """Close what `start` opened, and nothing that was given. Closing twice does nothing.

        Waits up to 5 seconds for connections in use, then cuts them off; and up to a second for observers. An enqueue
        that waits meanwhile is done, or raises NotStarted or what the lost connection raises: then it has happened or
        not.
        """
        try:
            await self._close()
        except asyncio.CancelledError:
            await self.events.finish(0.0)
            raise
        except BaseException:
            await self.events.finish()
            raise
        await self.events.finish()

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close."""
        await self.close()

    @abstractmethod
    async def migrate(self) -> list[int]:
        """Bring the database's schema up to date; return the versions applied. Safe to call from several processes.

        Each version is a transaction of its own, which waits 2 s at most for a lock and is tried again up to 20 times.
        A schema that is newer but still serves this pqlite is left as it is. A store in memory has no schema.

        Raises:
            SchemaError: the server is older than PostgreSQL 14; its schema is newer and no longer serves this pqlite;
                or others held on to their locks. The versions before that one stay applied.
        """

    # Connections

    @abstractmethod
    def connection(self) -> AbstractAsyncContextManager[Any]:
        """Yield a connection from the store's pool and return it to the pool afterwards. It is an asyncpg connection; a
        store in memory yields an object that only has transactions.

        Raises:
            NotStarted: before start() or after close(), in another event loop, or the given pool was closed.
            StoreTimeout: the pool had none to give within the store's `timeout`.
            ConnectionError: other code cancelled what the pool was waiting for.
        """

    @abstractmethod
    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """Yield a connection in a transaction: committed when the block ends, rolled back when it raises.

        The store's `timeout` does not apply to your own statements in it.

        Raises:
            StoreTimeout: as for `connection`, or BEGIN or COMMIT was not answered in time. After an unanswered COMMIT
                `may_have_happened` is true.
        """

    # Enqueue

    def on_enqueue(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each committed statement of this store that enqueued jobs. Return a function that
        removes the listener.
        """
        self._enqueue_listeners.append(listener)
        return lambda: self._enqueue_listeners.remove(listener)

    def _enqueued(self) -> None:
        for listener in tuple(self._enqueue_listeners):
            listener()

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
        """Add a job and return its id, when it is committed.

        Concurrent calls share statements: while one statement is being executed, the jobs of further calls are
        collected and sent with the next one. Jobs with a dedupe key and jobs without use separate statements. If an
        open transaction holds a key, only calls with that key wait, and together they use one connection. If the
        database refuses a job (a constraint or a trigger of yours), only its own caller gets the error. If the
        connection is lost, all callers of that statement get the error; the statement may have been committed and is
        not repeated. If a call is cancelled before its job was sent, the job is not added and other calls go on.

        If an active job (READY, BLOCKED, RUNNING) holds the `dedupe_key`, nothing is added and that job's id is
        returned. This is exact, also between concurrent transactions. It is an error if the holder will not do the
        work: because it was asked to cancel and still runs, or because it is the job whose handler makes the call. To
        enqueue the key of its own job, a handler does it in the transaction that completes the job: inside
        `ctx.complete()` with `conn=` the block's connection, or after `ctx.complete(conn=session)` with `conn=session`.
        (In the block, the job becomes DONE before the new job is inserted. Its row is then locked until the block ends:
        updates of its progress and requests to cancel it wait.)

        Args:
            job_type: the name of the handler; 1 to 200 bytes. Or a whole job (`NewJob`, `handler.new(...)`) instead of
                `job_type` and `payload`; options given here replace its own. The defaults of `@handlers.job` apply to
                `handler.new(...)`, not to a name.
            payload: any JSON value, pydantic model or dataclass; None is stored as `{}`.
            dedupe_key: at most one active job has it; 1 to 1024 bytes.
            run_after: the earliest start: a datetime (a naive one is local time), or a timedelta from now by the
                database's clock; None: at once.
            priority: higher runs sooner; 0 if it is left out.
            max_attempts: how often the job may be started; with 1 it is started at most once; 5 if it is left out.
            timeout_seconds: an attempt that takes longer is cancelled, and counts as an error even if it returns,
                unless `ctx.complete()` has committed. Code that blocks the event loop or a thread is not interrupted.
            queue: 1 to 200 bytes; "default" if it is left out.
            tags, metadata: strings and a JSON object for your own use, stored with the job.
            concurrency_key: jobs with the same key can be paused together (`pause(key=)`); 1 to 1024 bytes.
            expires_at: no attempt starts after this time; a job that waits then is CANCELLED within seconds.
            conn: a connection of yours, whose transaction decides whether the job exists; it stays yours. Accepted are
                asyncpg connections; SQLAlchemy's AsyncSession and AsyncConnection (drivers asyncpg and psycopg),
                and so SQLModel's session; psycopg's AsyncConnection; and what Tortoise, Piccolo and databases yield
                for a transaction. Errors are raised as its library raises them.
            strict: True refuses a `conn` that is in no transaction; False logs a line instead; None: the store's
                setting.

        Raises:
            InvalidJob: a value is out of bounds (PayloadError: cannot be stored as JSON). Nothing was written.
            ConfigurationError: `conn` is none of these. NotInTransaction: see `strict`. Nothing was written.
            DedupeKeyBusy: an open transaction has held the key for more than 5 seconds. (With `conn` the connection's
                own lock_timeout applies instead.)
            HeldByCancelledJob: the job that holds the key was asked to cancel and still runs. Nothing was written. Wait
                for its end (`wait_for(error.job_id, raise_on_failure=False)`) and enqueue again.
            HeldByThisJob: the job whose handler makes this call holds the key. Nothing was written.
        """
        job = specified(job_type, payload, options)
        if self._middleware:
            job = passed_through(self._middleware, job)
        values = row(job, self._max_payload_bytes)
        lent = None if conn is None else await self._lend(conn, strict, "A job was enqueued")
        answer = await self._insert(values, conn, lent)
        if not answer.inserted and job.dedupe_key is not None:
            if await holds_own_key((job.dedupe_key,), answer.id, lambda job_id: self._locked_by(job_id, lent)):
                raise HeldByThisJob(job.dedupe_key, answer.id)
            if answer.cancelling:
                raise HeldByCancelledJob(job.dedupe_key, answer.id)
        if self.events.wanted:
            enqueued = EnqueuedJob(answer.id, job.job_type, job.queue, answer.inserted)
            self.events(JobsEnqueued([enqueued], committed=conn is None))
        return typed_id(job, answer.id)

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
        """Add many jobs in one transaction: all of them, or on any error none. Return one verdict for each, in the
        order given. If an active job with the same key was asked to cancel and still runs, the verdict is `cancelling`,
        and a warning is logged. Ids of jobs made by `handler.new(...)` carry the type of their result; see `wait_for`.

        Args:
            jobs: a list or tuple, or another iterable or async iterable, which is read to its end before a transaction
                begins.
            conn: a connection of yours, as for `enqueue`. A batch that needs several statements runs in a savepoint of
                its transaction: if it fails or is cancelled, none of its jobs remain, even if you then commit.
            strict: as for `enqueue`.
            progress: called after each chunk with how many jobs are written so far, and how many there are.

        Raises:
            InvalidJob: as for `enqueue`; the message names the position.
            DedupeKeyBusy: as for `enqueue`.
        """
        lent = None if conn is None else await self._lend(conn, strict, "Jobs were enqueued")
        noted = Noted() if self.events.wanted else None
        middleware = self._middleware if noted is None else (*self._middleware, noted.note)
        jobs = several(jobs)
        if middleware:
            jobs = all_passed_through(middleware, jobs)
        verdicts = await self._insert_many(jobs, conn, lent, progress)
        tell_cancelling(verdicts)
        if noted is not None and verdicts:
            self.events(JobsEnqueued(noted.enqueued(verdicts), committed=conn is None))
        return verdicts

    # Read, wait, cancel, retry

    async def get(self, job_id: int) -> Job:
        """Return a job.

        Raises:
            JobNotFound: there is none with that id.
        """
        found = await self._read(checked_id(job_id))
        if found is None:
            raise _missing(job_id)
        return found

    async def cancel(self, job_id: int, *, conn: Any = None, strict: bool | None = None) -> JobStatus:
        """Cancel a job; return its status after the call. `conn` and `strict` are as for `enqueue`.

        A waiting job is CANCELLED at once. A RUNNING one is asked to stop, and becomes CANCELLED unless it is done
        first. A finished one is left alone.

        Raises:
            JobNotFound: there is none with that id.
        """
        lent = None if conn is None else await self._lend(conn, strict, "A job was cancelled")
        status = await self._cancel(checked_id(job_id), lent)
        if status is None:
            raise _missing(job_id)
        if self.events.wanted:
            self.events(CancelRequested(job_id, status, committed=conn is None))
        self.look_again((job_id,))
        return status

    async def retry(self, job_id: int) -> JobStatus:
        """Run a job again, now; return its status after the call.

        A finished job becomes READY with at least one attempt left; a waiting one becomes due. A RUNNING or BLOCKED
        one is left alone.

        Raises:
            JobNotFound: there is none with that id.
            DedupeConflict: a newer active job holds its dedupe key.
        """
        before = await self._retry(checked_id(job_id))
        if before is None:
            raise _missing(job_id)
        status = before if before in (JobStatus.RUNNING, JobStatus.BLOCKED) else JobStatus.READY
        if status is JobStatus.READY:
            self._enqueued()
        if self.events.wanted:
            self.events(RetryRequested(job_id, status))
        return status

    # One job at a time, without a worker

    async def pickup(
        self, worker_id: str, *, queues: Iterable[str] | None = None, job_types: Iterable[str] | None = None
    ) -> Job | None:
        """Claim the best due job, of any queue and type or of these, for a caller without a worker; None if nothing is
        due.

        The caller then calls `mark_done` or `mark_error`. If it never does, `reap_stale` makes the job READY again.
        """
        holder = f"{name('worker_id', worker_id, 200)}-{secrets.token_hex(4)}"
        job = await self._claim_one(
            holder,
            None if queues is None else names("queues", queues, 200),
            None if job_types is None else names("job_types", job_types, 200),
        )
        if job is not None:
            self._by_hand.picked_up(job)
        return job

    async def mark_done(self, job: Job | int, *, result: Any = None, duration_ms: float | None = None) -> None:
        """Record that a claimed job is done. The call can be repeated.

        Args:
            job: the claimed job, or the id of a job that this store has picked up.
            result: any JSON value or pydantic model.
            duration_ms: how long the attempt took.

        Raises:
            LeaseLost: the claim is no longer current. Nothing was changed.
            PayloadError: the result cannot be stored. Nothing was changed.
            InvalidJob: another argument has the wrong type. Nothing was changed.
        """
        await self._settle_by_hand(self._by_hand.done(job, result=result, duration_ms=duration_ms))

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
        """Record that an attempt failed: READY again after `retry_after` (1 minute), or FAILED if `terminal` or at
        `max_attempts`.

        Raises:
            LeaseLost, PayloadError, InvalidJob: as mark_done.
        """
        outcome = self._by_hand.error(
            job, error, retry_after=retry_after, terminal=terminal, result=result, duration_ms=duration_ms
        )
        await self._settle_by_hand(outcome)

    async def _settle_by_hand(self, outcome: Outcome) -> None:
        claimed = outcome.job
        verdict = await self._settle_one(outcome)
        self._by_hand.settled(claimed)
        self.look_again((claimed.id,))
        if verdict is Verdict.FENCED:
            raise claim_lost(claimed)

    async def mark_progress(self, job: Job | int, progress: Any) -> None:
        """Store the progress of a claimed job, any JSON value, where `get` and SQL show it until the job is claimed
        again. If another transaction has locked the job's row, nothing is stored. In a handler use `ctx.progress`,
        which limits how often it is written.

        Raises:
            LeaseLost, PayloadError, InvalidJob: as mark_done.
        """
        claimed = self._by_hand.claim_of(job)
        if await self._progress(claimed, self._encoded_result(progress)) is Verdict.FENCED:
            raise claim_lost(claimed)

    async def reap_stale(self, *, default_stale_after: timedelta = timedelta(minutes=20)) -> int:
        """Make RUNNING jobs READY again that no registered worker holds and that were claimed longer ago than their
        `timeout_seconds`, or than `default_stale_after`; return how many. Jobs of registered workers are not affected.

        Raises:
            InvalidJob: `default_stale_after` is not a timedelta.
        """
        return await self._reap_stale(duration("default_stale_after", default_stale_after))

    # Completion in a transaction

    def complete(self, job: Job, *, result: Any = None) -> AbstractAsyncContextManager[Any]:
        """Yield a connection in a transaction. When the block ends, the claimed job becomes DONE in it and it is
        committed: your writes and DONE take effect together, or neither does.

        Afterwards `job.status` is DONE. Do not use the connection after the block: it goes back to the pool.

        Raises:
            LeaseLost: the claim is no longer current. Everything was rolled back.
            JobCancelled: the job was asked to cancel. Everything was rolled back.
            PayloadError: the result cannot be stored. No transaction was begun.
        """
        return self._completing(job, self._encoded_result(result))

    async def complete_on(self, conn: Any, job: Job, *, result: Any = None) -> None:
        """Make the claimed job DONE in the transaction of a connection of yours (see `enqueue`): it takes effect when
        you commit. The job's row is locked until then.

        `job.status` stays RUNNING; after the commit `was_completed` tells whether it took effect.

        Raises:
            LeaseLost: the claim is no longer current. The transaction has failed: roll it back.
            JobCancelled: the job was asked to cancel. The transaction has failed: roll it back.
            NotInTransaction: the connection is in no transaction. PayloadError: the result cannot be stored. Nothing
                was written.
        """
        await self._complete_on(conn, job, self._encoded_result(result))

    def _encoded_result(self, result: Any) -> str | None:
        return encode_clean(result, max_bytes=self._max_payload_bytes)

    @abstractmethod
    async def was_completed(self, job: Job) -> bool:
        """Return whether this claim of the job ended as DONE, also if the job has been deleted since.

        Waits up to 10 seconds for an open transaction that may still decide it.

        Raises:
            TimeoutError: that transaction was still open then, or the database could not be reached.
        """

    # The acts of a backend

    @abstractmethod
    async def _close(self) -> None:
        """Close what `start` opened."""

    @abstractmethod
    def _see_usable(self) -> None:
        """Check that the store can be used here.

        Raises:
            NotStarted: it is not started, or was started in another event loop.
        """

    @abstractmethod
    async def _lend(self, conn: Any, strict: bool | None, what: str) -> Any:
        """Return the form of a caller's connection that the other acts take as `lent`.

        Raises:
            ConfigurationError: `conn` is not a connection that can be used. NotInTransaction: it is in no transaction,
                and `strict` is true; `what` ("A job was enqueued") begins the message.
        """

    @abstractmethod
    async def _insert(self, values: Row, conn: Any, lent: Any) -> Answer:
        """Insert a job, unless an active one has its key. `conn` is the caller's connection and `lent` the result of
        `_lend`; both are None if the store itself is to commit.
        """

    @abstractmethod
    async def _insert_many(
        self, jobs: NewJobs, conn: Any, lent: Any, progress: Callable[[int, int], None] | None
    ) -> list[Enqueued[Any]]:
        """Check and insert jobs, all or none; return one verdict each."""

    @abstractmethod
    async def _locked_by(self, job_id: int, lent: Any) -> str | None:
        """Return the `locked_by` of a job."""

    @abstractmethod
    async def _read(self, job_id: int) -> Job | None:
        """Return a job, None if there is none with that id."""

    @abstractmethod
    async def _ended(self, job_ids: list[int]) -> list[Ended]:
        """Return which of the jobs have ended, and how; see awaiting.Ended."""

    @abstractmethod
    async def _cancel(self, job_id: int, lent: Any) -> JobStatus | None:
        """Cancel a job, or ask its worker to; return its status then, None if there is no such job."""

    @abstractmethod
    async def _retry(self, job_id: int) -> JobStatus | None:
        """Make a job READY; return its status before, None if there is no such job.

        Raises:
            DedupeConflict: a newer active job holds its dedupe key.
        """

    @abstractmethod
    async def _claim_one(
        self, holder: str, queues: Sequence[str] | None, job_types: Sequence[str] | None
    ) -> Job | None:
        """Claim the best due job for a holder."""

    @abstractmethod
    async def _settle_one(self, outcome: Outcome) -> Verdict:
        """Write the outcome of a claim; return WRITTEN, ALREADY or FENCED."""

    @abstractmethod
    async def _progress(self, job: Job, progress: str | None) -> Verdict:
        """Store the progress of a claimed job; return WRITTEN, BUSY or FENCED."""

    @abstractmethod
    async def _reap_stale(self, older_than: timedelta) -> int:
        """See `reap_stale`."""

    @abstractmethod
    def _completing(self, job: Job, result: str | None) -> AbstractAsyncContextManager[Any]:
        """See `complete`; the result is encoded."""

    @abstractmethod
    async def _complete_on(self, conn: Any, job: Job, result: str | None) -> None:
        """See `complete_on`; the result is encoded."""


def claim_lost(job: Job) -> LeaseLost:
    """Return the error about a claim that is no longer current."""
    return LeaseLost(f"The claim on job {job.id} is no longer current; nothing was changed.")


def _missing(job_id: int) -> JobNotFound:
    return JobNotFound(f"There is no job {job_id}.")
