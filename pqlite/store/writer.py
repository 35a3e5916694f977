"""Writes single jobs on the store's own connections. Callers share statements; a key that is held delays only calls
with that key.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import asyncpg

from pqlite.errors import DedupeKeyBusy
from pqlite.store.coalescing import Coalescer, Write
from pqlite.store.columns import KEY, METADATA, PAYLOAD, arguments
from pqlite.store.connecting import acquired, leaving_standbys
from pqlite.store.deadlines import Timed
from pqlite.store.link import is_temporary
from pqlite.store.statements import Statements
from pqlite.store.validation import Row

KEY_WAIT = timedelta(seconds=5)
"""How long an enqueue waits for a key that another open transaction holds."""
SHARED_WAIT = timedelta(milliseconds=20)
"""How long a shared statement waits for the first held key: longer than a commit usually takes."""
BUSY_WAIT = timedelta(milliseconds=50)
"""The same for a statement in which all keys are known to be held."""


class Answer(NamedTuple):
    """The result of an enqueue: the id of the new job, or of the active job that holds the key."""

    id: int
    inserted: bool
    cancelling: bool
    """Whether that job runs and was asked to cancel."""


Answers: TypeAlias = Sequence[Answer | None]
"""None: the row was not inserted, because an open transaction holds its key."""
Insert: TypeAlias = Callable[[Timed, list[Row]], Awaitable[Answers]]


class EnqueueWriter:
    """Writes single jobs. Uses at most three connections of the pool, however many callers wait.

    Jobs without a key share statements, and jobs with a key share others, which wait only briefly for a held key. A job
    whose key is held is then written by a separate statement. Only one caller per key does so; other callers with that
    key wait for it without a connection, and then try again.

    Args:
        pool: provides the connections; the writer does not close it.
        timeout: how many seconds to wait for a connection, and for the answer to a statement.
        committed: called after each statement that has inserted jobs.
    """

    def __init__(self, pool: asyncpg.Pool[Any], sql: Statements, timeout: float, committed: Callable[[], None]) -> None:
        def coalescer(insert: Insert, **options: Any) -> Coalescer[Row, Answer | None]:
            return Coalescer(partial(_session, pool, timeout, insert, committed), is_refusal, size=_length, **options)

        self._keyless = coalescer(partial(_insert_keyless, sql))
        self._keyed = coalescer(partial(_insert_keyed, sql, SHARED_WAIT))
        # Returns its connection after each statement, because a pool may have only one.
        self._busy = coalescer(partial(_insert_keyed, sql, BUSY_WAIT), term=0)
        self._busy_keys: dict[str, asyncio.Event] = {}
        self._aborted: Exception | None = None

    async def write(self, row: Row) -> Answer:
        """Insert a row and return the answer after the commit. See Coalescer.write about cancellation.

        Raises:
            DedupeKeyBusy: another transaction held the row's key for longer than KEY_WAIT; nothing was written.
            Exception: what the pool or the database raises.
        """
        key = row[KEY]
        if key is None:
            answer = await self._keyless.write(row)
            assert answer is not None
            return answer
        deadline = asyncio.get_running_loop().time() + KEY_WAIT.total_seconds()
        while True:
            if (ended := self._busy_keys.get(key)) is not None:
                await _until(ended, deadline, key)
            if self._aborted is not None:
                raise self._aborted
            if key in self._busy_keys:
                continue
            if (answer := await self._keyed.write(row)) is not None:
                return answer
            if key not in self._busy_keys:
                return await self._write_apart(row, deadline)

    async def _write_apart(self, row: Row, deadline: float) -> Answer:
        """Try to insert a row whose key is held until the key is free. Other callers with that key wait for the end."""
        ended = self._busy_keys[row[KEY]] = asyncio.Event()
        try:
            # Checked between statements only: a statement that is interrupted may have been committed.
            while asyncio.get_running_loop().time() < deadline:
                if (answer := await self._busy.write(row)) is not None:
                    return answer
            raise _busy(row[KEY])
        finally:
            del self._busy_keys[row[KEY]]
            ended.set()

    async def idle(self) -> None:
        """Return when nothing is being written and no caller waits for a key."""
        while True:
            for coalescer in (self._keyless, self._keyed, self._busy):
                await coalescer.idle()
            await asyncio.sleep(0)
            if not self._busy_keys:
                return

    def abort(self, error: Exception) -> None:
        """Stop writing, and raise the error in all waiting callers."""
        self._aborted = error
        for coalescer in (self._keyless, self._keyed, self._busy):
            coalescer.abort(error)


def is_refusal(error: Exception) -> bool:
    """Return whether the database refused a row (a constraint, a trigger, a policy), and so wrote nothing."""
    return isinstance(error, asyncpg.PostgresError) and not is_temporary(error)


@asynccontextmanager
async def _session(
    pool: asyncpg.Pool[Any], timeout: float, insert: Insert, committed: Callable[[], None]
) -> AsyncIterator[Write[Row, Answer | None]]:
    """Yield a function that enqueues rows together, on one connection of the pool.

    Raises:
        StoreTimeout, ConnectionError: see connecting.acquired.
    """
    async with acquired(pool, timeout) as conn:
        timed = Timed(conn, timeout)

        async def write(rows: list[Row]) -> Answers:
            async with leaving_standbys(pool):
                answers = await insert(timed, rows)
            if any(answer is not None and answer.inserted for answer in answers):
                committed()
            return answers

        yield write


async def _insert_keyless(sql: Statements, conn: Timed, rows: list[Row]) -> Answers:
    if len(rows) == 1:
        return [Answer(*answer) for answer in await conn.fetch(sql.enqueue, *rows[0], None)]
    ids: list[int] = (await conn.fetch(sql.enqueue_keyless, *arguments(rows, keyed=False)))[0][0]
    return [Answer(job_id, True, False) for job_id in ids]


async def _insert_keyed(sql: Statements, wait: timedelta, conn: Timed, rows: list[Row]) -> Answers:
    if len(rows) == 1:
        try:
            return [Answer(*answer) for answer in await conn.fetch(sql.enqueue, *rows[0], wait)]
        except asyncpg.LockNotAvailableError:
            pass  # of a key or of the table; enqueue_many distinguishes them
    answers: list[Answer | None] = [None] * len(rows)
    for ordinal, job_id, inserted, cancelling in await conn.fetch(sql.enqueue_many, *arguments(rows, keyed=True), wait):
        if job_id is not None:
            answers[ordinal - 1] = Answer(job_id, inserted, cancelling)
    return answers


async def _until(ended: asyncio.Event, deadline: float, key: str) -> None:
    try:
        async with asyncio.timeout_at(deadline):
            await ended.wait()
    except TimeoutError:
        raise _busy(key) from None


def _busy(key: str) -> DedupeKeyBusy:
    return DedupeKeyBusy(f"A transaction that has not ended holds the dedupe key {key!r}; nothing was enqueued.")


def _length(row: Row) -> int:
    return len(row[PAYLOAD]) + len(row[METADATA])
