"""The JobStore protocol. Its docstrings are the specification: what every store promises, whatever it keeps jobs in.

(Over 300 lines because it is one protocol.)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Literal, Protocol, TypeVar, Unpack, overload

from pqlite.job import Enqueued, Job, JobId, JobOptions, JobOutcome, JobStatus, NewJob, NewJobs, TypedJob, TypedJobs
from pqlite.store.scheduling import ScheduleVerbs

R = TypeVar("R")


class JobStore(ScheduleVerbs, Protocol):
    """Keeps jobs. Methods may be called from any task of the event loop the store was started in.

    A cancelled call has either happened or not; nothing is ever half done.
    """

    async def start(self) -> None:
        """Make the store usable. Starting a started store does nothing."""
        ...

    async def close(self) -> None:
        """Let go of what `start` made, and of nothing that was given. Closing twice does nothing.

        An enqueue that waits meanwhile is done, or raises NotStarted or what the lost connection raises: then it has
        happened or not.
        """
        ...

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

        Jobs that are enqueued at the same time are written together, those with keys apart from those without: none
        waits for company, but while one statement is on its way those who come share the next. A key that another open
        transaction holds holds up only those who want that key; they keep one connection, however many they are. A job
        that the database refuses (a constraint or a trigger of yours) is an error to its own caller only. A connection
        that is lost is an error to all who were in that statement, which may have happened and is not repeated.
        Cancelled, a job that was not sent yet is not added, and none of the others notices.

        With a `dedupe_key` that an active job (READY, BLOCKED, RUNNING) holds, nothing is added and that job's id is
        returned; exact also between racing transactions. It is an error if that job will not do the work: it was asked
        to cancel and still runs, or it is the job whose handler calls this. A handler may enqueue its own job's key in
        the transaction that completes the job: inside `ctx.complete()` with `conn=` its connection (the job is made
        DONE before the follow-up is inserted, so progress and cancel wait for the end of the block), or after
        `ctx.complete(conn=session)` with `conn=session`.

        Args:
            job_type: which handler runs it; 1 to 200 bytes. Or the whole job (`NewJob`, `handler.new(...)`), instead
                of `job_type` and `payload`: options that are given here win over its own. The defaults of
                `@handlers.job` are those of `handler.new(...)`; with a name alone they do not apply.
            payload: any JSON value, pydantic model or dataclass; None is stored as `{}`.
            dedupe_key: at most one active job has it; 1 to 1024 bytes.
            run_after: not before this time (a naive datetime is local time), or not before this long from now by
                the store's clock; None: at once.
            priority: higher runs sooner; 0 if it is left out.
            max_attempts: how often it may be started; 1 promises that it is started at most once; 5 if it is left out.
            timeout_seconds: an attempt that takes longer is cancelled, and counts as an error even if it returns,
                unless `ctx.complete()` has committed. What blocks the event loop or a thread is not cut short.
            queue: 1 to 200 bytes; "default" if it is left out.
            tags, metadata: words and a JSON object of yours, kept with the job.
            concurrency_key, expires_at: kept with the job; no worker of this version heeds them.
            conn: a connection of the caller's, which it stays; its transaction decides whether the job exists. One of
                asyncpg's; an AsyncSession or AsyncConnection of SQLAlchemy (drivers asyncpg and psycopg), so also
                SQLModel's session; psycopg's AsyncConnection; or what Tortoise, Piccolo or databases yield for a
                transaction. Its errors are raised as its library raises them.
            strict: refuse a `conn` that is in no transaction, instead of saying so in a log line. None: the store's
                setting.

        Raises:
            InvalidJob: a value is out of bounds (PayloadError: cannot be stored as JSON). Nothing was written.
            ConfigurationError: `conn` is none of these. NotInTransaction: see `strict`. Nothing was written.
            DedupeKeyBusy: a transaction that has not ended holds the key, for longer than 5 seconds. Not with `conn`,
                where the connection's own lock_timeout rules.
            HeldByCancelledJob: the key's job was asked to cancel and still runs. Nothing was written: wait for its end
                (`wait_for(error.job_id, raise_on_failure=False)`) and enqueue again.
            HeldByThisJob: the key's job is the one whose handler calls this. Nothing was written.
        """
        ...

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
        """Add many jobs; return one verdict each, in the order given. All of them in one transaction, or on any error
        none. Where the active job with a key was asked to cancel and still runs, the verdict is `cancelling`, and a
        warning is logged. The ids of jobs that `handler.new(...)` has made know their results' types; see `wait_for`.

        Args:
            jobs: a list, or anything that can be iterated, also asynchronously. What is no list or tuple is drawn to
                its end before a transaction is begun, and each job is taken as it is when it is drawn.
            conn: a connection of the caller's, as for `enqueue`. In its transaction a batch that takes several
                statements makes a savepoint: should it fail or be cancelled, nothing of it stays, even if the
                transaction is committed.
            strict: as for `enqueue`.
            progress: called after each chunk with how many jobs are written so far, and how many there are.

        Raises:
            InvalidJob: as for `enqueue`; the message names the position.
            DedupeKeyBusy: as for `enqueue`.
        """
        ...

    async def get(self, job_id: int) -> Job:
        """Return a job.

        Raises:
            JobNotFound: there is none with that id.
        """
        ...

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
        """Return how a job has ended, when it has: DONE, FAILED or CANCELLED. A retry or a snooze is not the end.

            job_id = await store.enqueue(resize.new("a.png", width=80))
            thumbnail = (await store.wait_for(job_id)).result       # what resize is annotated to return

        Of a job that `handler.new(...)` has made, the result is what the handler's return annotation says, read back
        from JSON as a payload is; of any other it is the JSON value. An id from elsewhere (a URL) gets its type by
        `handler.job_id(number)`.

        Who waits holds no connection. A worker of the same store tells at once; for others the store looks, for all
        who wait together, at first often: it notices after a quarter of the time that the job took, and
        `poll_interval` at most. Through an outage of the database it waits on. Cancelled, only the waiting ends.

        Args:
            timeout: how long to wait, in seconds or as a timedelta; 0: look once; None: for ever. The job is not
                stopped.
            poll_interval: the longest pause between two looks.
            raise_on_failure: False: return the outcome of a job that failed or was cancelled, too.

        Raises:
            JobFailed: it has ended as FAILED or CANCELLED.
            JobTimeoutError: it has not ended in time.
            JobNotFound: there is no such job: its transaction has not been committed, or it was deleted after its end,
                as jobs are at once where the worker has `retain_done=timedelta(0)`.
            UnexpectedResult: the result does not fit the annotation. ConfigurationError: the annotation is nothing
                that can be read from JSON.
        """
        ...

    async def cancel(self, job_id: int, *, conn: Any = None, strict: bool | None = None) -> JobStatus:
        """Cancel a job; return its status after the call. `conn` and `strict` are as for `enqueue`.

        A waiting job is CANCELLED at once. A RUNNING one is asked to stop, and becomes CANCELLED unless it is done
        first. A finished one is left alone.

        Raises:
            JobNotFound: there is none with that id.
        """
        ...

    async def retry(self, job_id: int) -> JobStatus:
        """Run a job again, now; return its status after the call.

        A finished job becomes READY with at least one attempt left; a waiting one becomes due. A RUNNING or BLOCKED
        one is left alone.

        Raises:
            JobNotFound: there is none with that id.
            DedupeConflict: a newer active job holds its dedupe key.
        """
        ...

    async def pickup(self, worker_id: str) -> Job | None:
        """Claim the best due job of any type for a caller without a worker; None if nothing is due.

        The caller settles it with `mark_done` or `mark_error`. If it never does, `reap_stale` gives the job back.
        """
        ...

    async def mark_done(self, job: Job | int, *, result: Any = None, duration_ms: float | None = None) -> None:
        """Record that a claimed job is done. Repeating it is harmless.

        Args:
            job: the claimed job, or the id of one this store picked up.
            result: any JSON value or pydantic model.
            duration_ms: how long the attempt took, for statistics.

        Raises:
            LeaseLost: the claim is no longer current; nothing was changed.
            PayloadError: the result cannot be stored; nothing was changed.
            InvalidJob: another argument is of a wrong type; nothing was changed.
        """
        ...

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
        ...

    async def reap_stale(self, *, default_stale_after: timedelta = timedelta(minutes=20)) -> int:
        """Give back RUNNING jobs that no registered worker owns and that are older than their `timeout_seconds`, or
        than `default_stale_after`; return how many. A registered worker's jobs are never judged by age.

        Raises:
            InvalidJob: `default_stale_after` is no timedelta.
        """
        ...

    def complete(self, job: Job, *, result: Any = None) -> AbstractAsyncContextManager[Any]:
        """Yield a connection in a transaction whose last act is to make the claimed job DONE.

        What is written on it and DONE are committed together, or neither is. `job.status` is DONE afterwards. The
        connection is the store's: do not keep it.

        Raises:
            LeaseLost: the claim is no longer current; everything was rolled back.
            JobCancelled: somebody asked to cancel the job; everything was rolled back.
            PayloadError: the result cannot be stored; nothing was begun.
        """
        ...

    async def complete_on(self, conn: Any, job: Job, *, result: Any = None) -> None:
        """Make the claimed job DONE in the transaction of a connection of the caller's (see `enqueue`): it is when that
        is committed, and not if it is rolled back. From here to its end the job's row is locked.

        `job.status` stays RUNNING: ask `was_completed` after the end.

        Raises:
            LeaseLost: the claim is no longer current. The transaction has failed: roll it back.
            JobCancelled: somebody asked to cancel the job. The transaction has failed: roll it back.
            NotInTransaction: the connection is in no transaction. PayloadError: the result cannot be stored. Nothing
                was done.
        """
        ...

    async def was_completed(self, job: Job) -> bool:
        """Return whether this claim of the job ended as DONE; also if the job was pruned since.

        Waits for 10 seconds while a transaction is open that may still decide it.

        Raises:
            TimeoutError: it was still open then, or the database could not be asked.
        """
        ...
