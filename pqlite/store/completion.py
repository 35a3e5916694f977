"""Exactly-once effects in the database: the handler's own writes and DONE in one transaction, under the fence."""

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
from pqlite.store.link import is_weather, sqlstate
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

    The fence comes last, so that the job's row is locked for an instant only; but where the block enqueues the job's
    own dedupe key, DONE is written before that, because it frees the key (see `free_key`). Once the commit has begun a
    cancellation waits for its end: a COMMIT that is cut in two would leave nobody knowing. If its answer is lost, the
    job's row says what happened.
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
    """What `completing` will write, and may have written already."""

    def __init__(self, conn: Timed, sql: Statements, job: Job, result: str | None) -> None:
        self.job = job
        self._conn = conn
        self._sql = sql
        self._result = result
        self._written = False

    async def write(self) -> None:
        """Make the job DONE, unless it is: the block may have rolled back to a savepoint after it was written."""
        job = self.job
        if not self._written or (await self._conn.fetchrow(self._sql.end_of, job.id))[0] != JobStatus.DONE:
            await self._conn.fetch(self._sql.complete, job.locked_by, job.id, job.claims, self._result)
            self._written = True


_open: dict[int, _Completion] = {}
"""By the id of the connection that the block was given."""


async def free_key(conn: Any, keys: Collection[str]) -> None:
    """Before a job is enqueued on a connection of `completing` with the key of the job that is completed there: make
    that DONE now. From then on its row is locked until the block ends, and progress and cancel wait for that.

    Raises:
        LeaseLost, JobCancelled: it cannot be completed any more; the transaction has failed.
    """
    completion = _open.get(id(conn))
    if completion is not None and completion.job.dedupe_key in keys:
        try:
            await completion.write()
        except asyncpg.PostgresError as error:
            _raise_if_refused(error, completion.job)
            raise


async def complete_on(callers: Lent, sql: Statements, job: Job, result: str | None) -> None:
    """Make the job DONE in a transaction of the caller's, which has failed if this raises."""
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
        await stack.aclose()  # the lookup needs a connection, and this may have been the pool's last
        if not await was_completed(store, sql, job):
            raise
    job.status = JobStatus.DONE


async def was_completed(store: _Store, sql: Statements, job: Job) -> bool:
    """Look up whether a transaction that made the job DONE was committed: one whose answer was lost, or the caller's.

    The lookup wants a lock that conflicts with that transaction's: once it is granted, that transaction has ended. A
    row that is gone was pruned: its job has ended, and only a committed end is final.

    Raises:
        StoreTimeout: the transaction has not ended, or the database could not be asked, for 10 seconds.
        asyncpg.PostgresError: the database refuses the question (a missing right, say).
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
                    if not is_weather(refusal):
                        raise
                    error = refusal
                await asyncio.sleep(LOOKUP_PAUSE)
    except TimeoutError:
        if not deadline.expired():
            raise
        raise StoreTimeout(
            f"Whether job {job.id} was completed could not be found out within {LOOKUP_SECONDS:g} s: {error!r}",
            may_have_happened=True,
        ) from error
