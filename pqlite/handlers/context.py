"""JobContext, the first argument of a handler."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any, overload

from pqlite.handlers.progress import ProgressWriter, progress_of
from pqlite.job import Job
from pqlite.store.base import JobStore

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_logger = logging.getLogger("pqlite.jobs")


def as_it_is(result: Any) -> Any:
    """Return the result."""
    return result


class JobContext:
    """The context of one attempt: the claimed job, the store for follow-up jobs, and the worker's label.

    `resources` is the mapping of `Worker(resources=)`. Its values have no types here; a dependency gives them one:

        def get_pool(ctx: JobContext) -> asyncpg.Pool:
            pool: asyncpg.Pool = ctx.resources["pool"]
            return pool

        async def send(to: str, pool: asyncpg.Pool = Depends(get_pool)) -> None: ...

    The store belongs to the event loop. A plain `def` handler, which runs in a thread, calls it with
    `anyio.from_thread.run(ctx.store.enqueue, "next_step", {"id": 7})`; `ctx.complete()` is for `async def` handlers.
    """

    __slots__ = (
        "_completed_on", "_finished", "_noticed_stop", "_progress", "_stop_reason", "_write", "job", "resources",
        "store", "worker_id",
    )  # fmt: skip

    def __init__(self, job: Job, store: JobStore, worker_id: str, resources: Mapping[str, Any] = _NOTHING) -> None:
        self.job = job
        self.store = store
        self.worker_id = worker_id
        self.resources = resources
        self._stop_reason: str | None = None
        self._noticed_stop = False
        self._finished = False
        self._completed_on = False
        self._progress: ProgressWriter | None = None
        self._write: Callable[[Any], Any] | None = as_it_is
        """Converts a result to JSON by the handler's return annotation; None without one. Set by the worker, or, for a
        context that a test has made, by the call of a declared handler."""

    @property
    def attempt(self) -> int:
        """Return the number of this attempt, 1 for the first."""
        return self.job.attempts

    @property
    def scheduled_for(self) -> datetime | None:
        """Return the schedule's slot that the job was enqueued for (by `run_schedule_now`: the time of that call); None
        if it was not enqueued by a schedule. It is the same in every attempt, even if the job runs late.
        """
        slot = (self.job.metadata or {}).get("scheduled_for")
        return datetime.fromisoformat(slot) if isinstance(slot, str) else None

    @property
    def fence_token(self) -> str:
        """Return `id:claims`, which grows with every claim of the job: for systems that can refuse an older token."""
        return f"{self.job.id}:{self.job.claims}"

    @property
    def log(self) -> JobLog:
        """Return the logger `pqlite.jobs`, whose records carry `job_id`, `job_type` and `attempt`.

        For the records of every other logger as well, put a `pqlite.observability.JobFields` on the log's handler.
        """
        return JobLog(self.job)

    @property
    def stop_requested(self) -> str | None:
        """Return why the handler should stop ('timeout', 'cancel', 'shutdown', 'lease'), None while it need not.

        A coroutine is cancelled as well. A handler in a thread cannot be cancelled, and should check this regularly, or
        call `raise_if_stopped`. A handler that has read a reason here and returns counts as interrupted, and not as
        done, unless it calls `mark_finished`. So does a coroutine that catches its cancellation and returns.
        """
        if self._stop_reason is not None:
            self._noticed_stop = True
        return self._stop_reason

    async def progress(self, fraction: float | None = None, message: str | None = None, **data: Any) -> None:
        """Show how far the handler is: `store.get(id).progress` and the column `progress` are then {"fraction": 0.4,
        "message": "page 4 of 10", "data": {...}}, without what was not given.

        It may be called often: at most one write in half a second is sent, with the latest values. It is stored until
        the job is claimed again. A handler in a thread calls it with `anyio.from_thread.run(ctx.progress, 0.4)`.

        Args:
            fraction: from 0 to 1.
            message: one line of text.
            data: JSON values.

        Raises:
            LeaseLost: the claim is no longer current. InvalidJob: `fraction` or `message` is invalid (PayloadError:
            `data`
                cannot be stored). While the database cannot be reached, nothing is written and nothing raised.
        """
        if self._progress is None:
            self._progress = ProgressWriter(partial(self.store.mark_progress, self.job))
        await self._progress.put(progress_of(fraction, message, data))

    def raise_if_stopped(self) -> None:
        """Raise asyncio.CancelledError if the handler should stop; do not catch it.

        For handlers in threads, between two steps of their work. The attempt ends like that of a cancelled coroutine:
        after a shutdown or a lost lease the job is given back (no attempt counted), after a cancel it is CANCELLED, and
        a timeout is an error. `except Exception` does not catch it; `finally` and `with` run.
        """
        if self.stop_requested is not None:
            raise asyncio.CancelledError(f"the handler was asked to stop: {self._stop_reason}")

    def mark_finished(self) -> None:
        """Declare the work finished although the handler noticed that it should stop: when it returns, the job is DONE.
        This has no effect after a timeout; then only what `complete` has committed counts.
        """
        self._finished = True

    @overload
    def complete(self, *, result: Any = None) -> AbstractAsyncContextManager[Any]: ...

    @overload
    def complete(self, *, conn: Any, result: Any = None) -> Awaitable[None]: ...

    def complete(self, *, conn: Any = None, result: Any = None) -> AbstractAsyncContextManager[Any] | Awaitable[None]:
        """Make the job DONE in the transaction of the handler's own writes: both are committed, or neither is.

        On a connection of the store, in a transaction that begins and ends with the block (do not use it afterwards):

            async with ctx.complete(result={"rows": 3}) as conn:
                await conn.execute("insert into ledger ...")

        Or in a transaction of your own, as its last statement; `conn` is what `store.enqueue(conn=)` takes:

            async with sessions.begin() as session:
                session.add(Entry(...))
                await ctx.complete(conn=session, result={"rows": 3})

        The job's own `dedupe_key` may be enqueued again in that transaction: within the block, or after the call.

        The result is written by the handler's return annotation; what the handler returns afterwards is ignored. If it
        returns and that transaction was not committed, the attempt has failed (NotCommitted). A cancellation rolls
        back, unless the commit has begun.

        Raises:
            LeaseLost: the claim is no longer current; everything is rolled back.
            JobCancelled: the job was asked to cancel; everything is rolled back.
            NotInTransaction: `conn` is not in a transaction; nothing was done.
            PayloadError: the result does not fit the return annotation, or cannot be stored; nothing was done.
        """
        if result is not None and self._write is not None:
            result = self._write(result)
        if conn is None:
            return _Completion(self.store.complete(self.job, result=result))
        self._completed_on = True
        return self.store.complete_on(conn, self.job, result=result)


class _Completion(AbstractAsyncContextManager[Any]):
    """The context manager of `ctx.complete()`. It warns if it is never entered, because then it completes nothing."""

    __slots__ = ("_manager", "_used")

    def __init__(self, manager: AbstractAsyncContextManager[Any]) -> None:
        self._manager = manager
        self._used = False

    async def __aenter__(self) -> Any:
        self._used = True
        return await self._manager.__aenter__()

    async def __aexit__(self, *error: Any) -> bool | None:
        return await self._manager.__aexit__(*error)

    def __await__(self) -> Any:
        self._used = True
        raise TypeError(f"ctx.complete() is awaited with conn= only; {_ENTER}")

    def __enter__(self) -> Any:
        self._used = True
        raise TypeError(f"ctx.complete() is not for 'with' alone; {_ENTER}")

    def __exit__(self, *error: object) -> None: ...

    def __del__(self) -> None:
        if not self._used:
            warnings.warn(f"ctx.complete() did nothing; {_ENTER}", RuntimeWarning, stacklevel=2, source=self)


_ENTER = "without a connection of your own, use 'async with ctx.complete() as conn'"


class JobLog(logging.LoggerAdapter[logging.Logger]):
    """Logs for one attempt of a job."""

    def __init__(self, job: Job) -> None:
        super().__init__(_logger, {"job_id": job.id, "job_type": job.job_type, "attempt": job.attempts})

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the attempt's fields to the caller's `extra`."""
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs
