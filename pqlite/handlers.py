"""The user's side: handlers by job type, and the context a handler is called with."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, overload

from pqlite.errors import ConfigurationError, InvalidJob
from pqlite.job import Job
from pqlite.store.base import JobStore
from pqlite.store.validation import name

Handler = Callable[["JobContext"], Awaitable[Any] | Any]
"""Runs a job: `async def` on the event loop, plain `def` in a thread. What it returns is kept in `jobs.result`."""


class JobContext:
    """What a handler is called with: the claimed job, the store for follow-up jobs, and the worker's label."""

    __slots__ = ("_completed_on", "_stop_reason", "job", "store", "worker_id")

    def __init__(self, job: Job, store: JobStore, worker_id: str) -> None:
        self.job = job
        self.store = store
        self.worker_id = worker_id
        self._stop_reason: str | None = None
        self._completed_on = False

    @property
    def attempt(self) -> int:
        """Return the number of this attempt, 1 for the first."""
        return self.job.attempts

    @property
    def fence_token(self) -> str:
        """Return `id:claims`, which grows with every claim of the job: for systems that can refuse an older token."""
        return f"{self.job.id}:{self.job.claims}"

    @property
    def stop_requested(self) -> str | None:
        """Return why the handler should stop ('timeout', 'cancel', 'shutdown', 'lease'), None while it need not.

        A coroutine is cancelled as well; a handler in a thread cannot be, and should look here now and then.
        """
        return self._stop_reason

    @overload
    def complete(self, *, result: Any = None) -> AbstractAsyncContextManager[Any]: ...

    @overload
    def complete(self, *, conn: Any, result: Any = None) -> Awaitable[None]: ...

    def complete(self, *, conn: Any = None, result: Any = None) -> AbstractAsyncContextManager[Any] | Awaitable[None]:
        """Make the job DONE in the transaction of the handler's own writes: both are committed, or neither is.

        On a connection of the store's, in a transaction that begins and ends with the block (do not keep it):

            async with ctx.complete(result={"rows": 3}) as conn:
                await conn.execute("insert into ledger ...")

        Or in a transaction of your own, as its last act. Anything that `store.enqueue(conn=)` takes will do:

            async with sessions.begin() as session:
                session.add(Entry(...))
                await ctx.complete(conn=session, result={"rows": 3})

        What the handler returns afterwards is ignored. If it returns and that transaction was not committed, the
        attempt has failed (NotCommitted). A cancellation rolls back, unless the commit has begun.

        Raises:
            LeaseLost: the job is somebody else's by now; everything is rolled back.
            JobCancelled: somebody asked to cancel it; everything is rolled back.
            NotInTransaction: `conn` is in no transaction; nothing was done.
        """
        if conn is None:
            return self.store.complete(self.job, result=result)
        self._completed_on = True
        return self.store.complete_on(conn, self.job, result=result)


def checked(handlers: Mapping[str, Handler]) -> dict[str, Handler]:
    """Return the handlers by job type.

    Raises:
        ConfigurationError: there are none, a job type is no name, or a handler cannot be called.
    """
    if not handlers:
        raise ConfigurationError("A worker without handlers would do nothing: handlers={'job_type': function}")
    for job_type, handler in handlers.items():
        try:
            name("job_type", job_type, 200)
        except InvalidJob as error:
            raise ConfigurationError(str(error)) from None
        if not callable(handler):
            raise ConfigurationError(f"The handler of {job_type!r} must be a function, not {handler!r}")
    return dict(handlers)


def is_async(handler: Handler) -> bool:
    """Return whether calling the handler gives a coroutine, so that it belongs on the event loop."""
    while isinstance(handler, partial):
        handler = handler.func
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004
