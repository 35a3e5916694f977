"""Deadlines for what the store does on connections of its own pool: begin, statement, commit, rollback.

A connection that did not answer in time is closed: its answer could otherwise be taken for that of a later statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import asyncpg

from pqlite.errors import SchemaError, StoreTimeout
from pqlite.uninterrupted import uninterrupted

if TYPE_CHECKING:
    from pqlite.store.connecting import Connection

ROLLBACK_SECONDS = 3.0

NO_ANSWER = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""The connection cannot be used any more. asyncpg raises InternalClientError if a statement is sent while it processes
the server's end of the connection."""


class Timed:
    """A connection of the store's own pool on which each statement has a deadline.

    The deadline applies to each statement: many statements in sequence may take longer in total.
    """

    def __init__(self, conn: Connection, seconds: float) -> None:
        self._conn = conn
        self._seconds = seconds

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Run one statement and return its rows.

        Raises:
            StoreTimeout: it was not answered in time; the connection is closed.
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError: as asyncpg raises them.
        """
        try:  # asyncpg's `timeout` argument would take the place of a shorter `command_timeout` of the caller's pool
            async with asyncio.timeout(self._seconds):
                return await self._conn.fetch(sql, *args)
        except TimeoutError as error:
            abandon(self._conn)
            raise _no_answer(self._seconds) from error
        except (asyncpg.InvalidSchemaNameError, asyncpg.UndefinedFunctionError) as error:
            # Not a function that is missing in a trigger of the user's.
            called = str(error).partition("(")[0].removeprefix("function ")
            if isinstance(error, asyncpg.InvalidSchemaNameError) or called in sql:
                raise SchemaError(
                    f"The database has no schema of pqlite, or an older one ({error}); run 'pqlite migrate' or await "
                    "store.migrate()."
                ) from error
            raise

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        """Run one statement and return its first row, None if there is none; it raises the same as `fetch`."""
        rows = await self.fetch(sql, *args)
        return rows[0] if rows else None


@asynccontextmanager
async def answered_within(seconds: float, conn: Connection) -> AsyncIterator[None]:
    """Run the block, which uses the connection, with a deadline.

    Raises:
        StoreTimeout: it did not end in time; the connection is closed.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        abandon(conn)
        raise _no_answer(seconds) from error


@asynccontextmanager
async def while_answering(
    seconds: float, conn: Connection, ask: Callable[[], Awaitable[object]]
) -> AsyncIterator[None]:
    """Run a block with a statement that may take hours. Every `seconds` call `ask`, which asks the database on another
    connection whether it still answers, and has `seconds` to return.

    Raises:
        StoreTimeout: `ask` did not return in time, or failed; the connection is closed.
    """
    limit = asyncio.timeout(None)
    reason: Exception | None = None

    async def watch() -> None:
        nonlocal reason
        try:
            while True:
                await asyncio.sleep(seconds)
                async with asyncio.timeout(seconds):
                    await ask()
        except Exception as error:
            reason = error
            limit.reschedule(asyncio.get_running_loop().time())

    try:
        async with limit:
            watching = asyncio.create_task(watch())
            try:
                yield
            finally:
                watching.cancel()
                await asyncio.wait([watching])
    except TimeoutError as error:
        if reason is None:
            raise
        abandon(conn)
        raise _no_answer(seconds) from (reason or error)


@asynccontextmanager
async def in_transaction(conn: Connection, seconds: float) -> AsyncIterator[None]:
    """Run the block in a transaction: committed at its end, rolled back if it raises. BEGIN and COMMIT have `seconds`
    each; the block has no deadline.

    Raises:
        StoreTimeout: the server did not answer to BEGIN or COMMIT. An unanswered COMMIT may have taken effect.
    """
    transaction = await begin(conn, seconds)
    try:
        yield
    except BaseException:
        await uninterrupted(roll_back(conn, transaction))
        raise
    async with answered_within(seconds, conn):
        await transaction.commit()


async def begin(conn: Connection, seconds: float) -> Any:
    """Begin a transaction and return it. If that fails or is cancelled, close the connection: it may be in a
    transaction, and the pool would wait long for its answer.
    """
    transaction = conn.transaction()
    try:
        async with answered_within(seconds, conn):
            await transaction.start()
    except BaseException:
        abandon(conn)
        raise
    return transaction


async def roll_back(conn: Connection, transaction: Any) -> None:
    """Roll back within 3 seconds, or close the connection, which has the same effect. Raise nothing: the caller gets
    the error that ended the block.
    """
    try:
        async with asyncio.timeout(ROLLBACK_SECONDS):
            await transaction.rollback()
    except (*NO_ANSWER, asyncpg.PostgresError):
        abandon(conn)


def abandon(conn: Connection) -> None:
    """Close a connection at once, without telling the server."""
    with suppress(asyncpg.InterfaceError):  # the pool has already taken it back, because it was lost
        conn.terminate()


def _no_answer(seconds: float) -> StoreTimeout:
    return StoreTimeout(
        f"The database did not answer within {seconds:g} s. The statement may have been executed, or may still be.",
        may_have_happened=True,
    )
