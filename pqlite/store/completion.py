"""Exactly-once effects in the database: the handler's writes and DONE in one transaction, fenced by the claim."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

import asyncpg

from pqlite.errors import JobCancelled, LeaseLost, StoreTimeout
from pqlite.job import Job, JobStatus
from pqlite.store.connections import Lent
from pqlite.store.deadlines import NO_ANSWER, Timed, abandon, begin, roll_back
from pqlite.store.link import is_temporary, sqlstate
from pqlite.store.statements import Statements
from pqlite.uninterrupted import uninterrupted

COMMIT_SECONDS = 10.0
LOOKUP_SECONDS = 10.0
LOOKUP_PAUSE = 0.2


class _Store(Protocol):
    def connection(self) -> AbstractAsyncContextManager[Any]: ...


@asynccontextmanager
async def completing(
    store: _Store, sql: Statements, job: Job, result: str | None, *, timeout: float
) -> AsyncIterator[Any]:
    """Yield a connection in a transaction; at the end of the block make the job DONE in it, and commit.

    DONE is written last, so that the job's row is locked only briefly; except if the block enqueues a job with the same
    dedupe key, where DONE comes first because it frees the key (see `free_key`). A cancellation during COMMIT waits for
    its end, because the outcome of an interrupted COMMIT is unknown. If the answer to COMMIT is lost, the job's row
    tells what happened.
    """
    if job.locked_by is None:
        raise LeaseLost(f"Job {job.id} is not claimed.")
    async with AsyncExitStack() as stack:
        conn = await stack.enter_async_context(store.connection())
        transaction = await begin(conn, timeout)
        completion = _open[id(conn)] = _Completion(Timed(conn, timeout), sql, job, result)
        try:
            yield conn
            await completion.write()
        except BaseException as error:
            await uninterrupted(roll_back(conn, transaction))
            _raise_if_refused(error, job)
            raise
        finally:
            del _open[id(conn)]
        await uninterrupted(_commit(store, stack, conn, transaction, sql, job))


class _Completion:
    """Writes DONE for `completing`, once."""

    def __init__(self, conn: Timed, sql: Statements, job: Job, result: str | None) -> None:
        self.job = job
        self._conn = conn
        self._sql = sql
        self._result = result
        self._written = False

    async def write(self) -> None:
        """Make the job DONE unless it is DONE. (The block may have rolled it back to a savepoint.)"""
        job = self.job
        if not self._written or (await self._conn.fetchrow(self._sql.end_of, job.id))[0] != JobStatus.DONE:
            await self._conn.fetch(self._sql.complete, job.locked_by, job.id, job.claims, self._result)
            self._written = True


_open: dict[int, _Completion] = {}
"""By the id() of the connection that the block was given."""


async def free_key(conn: Any, keys: Collection[str]) -> None:
    """Call this before jobs with these keys are enqueued on a caller's connection. If it is a connection of
    `completing`, and its job has one of the keys, make that job DONE now. Its row is then locked until the block ends:
    updates of its progress and requests to cancel it wait.

    Raises:
        LeaseLost, JobCancelled: the job cannot be completed any more; the transaction has failed.
    """
    completion = _open.get(id(conn))
    if completion is not None and completion.job.dedupe_key in keys:
        try:
            await completion.write()
        except asyncpg.PostgresError as error:
            _raise_if_refused(error, completion.job)
            raise


async def complete_on(callers: Lent, sql: Statements, job: Job, result: str | None) -> None:
    """Make the job DONE in the caller's transaction, which has failed if this raises."""
    if job.locked_by is None:
        raise LeaseLost(f"Job {job.id} is not claimed.")
    try:
        await callers.fetch(sql.complete, job.locked_by, job.id, job.claims, result)
    except Exception as error:
        _raise_if_refused(error, job)
        raise


def _raise_if_refused(error: BaseException, job: Job) -> None:
    match sqlstate(error):
        case "PQ001":
            raise LeaseLost(f"The claim on job {job.id} is no longer current; nothing was written.") from None
        case "PQ002":
            raise JobCancelled(f"Job {job.id} was asked to cancel; nothing was written.") from None


async def _commit(store: _Store, stack: AsyncExitStack, conn: Any, transaction: Any, sql: Statements, job: Job) -> None:
    try:
        async with asyncio.timeout(COMMIT_SECONDS):
            await transaction.commit()
    except (*NO_ANSWER, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError):
        abandon(conn)
        await stack.aclose()  # frees a connection of the pool for the lookup
        if not await was_completed(store, sql, job):
            raise
    job.status = JobStatus.DONE


async def was_completed(store: _Store, sql: Statements, job: Job) -> bool:
    """Return whether the transaction that made the job DONE was committed.

    The query takes a lock that conflicts with that transaction's lock, so it succeeds only after the transaction has
    ended. If the row is gone, the job was pruned, which happens only to jobs that have ended.

    Raises:
        StoreTimeout: for 10 seconds the transaction did not end, or the database could not be reached.
        asyncpg.PostgresError: the database refuses the query (a missing privilege).
    """
    error: Exception | None = None
    deadline = asyncio.timeout(LOOKUP_SECONDS)
    try:
        async with deadline:
            while True:
                try:
                    async with store.connection() as conn:
                        found = await conn.fetchrow(sql.end_of, job.id)
                    return found is None or (found[0] == JobStatus.DONE and found[1] == job.claims)
                except Exception as refusal:
                    if not is_temporary(refusal):
                        raise
                    error = refusal
                await asyncio.sleep(LOOKUP_PAUSE)
    except TimeoutError:
        if not deadline.expired():
            raise
        raise StoreTimeout(
            f"It could not be determined within {LOOKUP_SECONDS:g} s whether job {job.id} was completed: {error!r}",
            may_have_happened=True,
        ) from error
