"""Runs one step of a migration: in a transaction of its own, with short waits for locks, and with retries."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from pqlite.errors import SchemaError
from pqlite.schema.files import render, statement

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any] | asyncpg.pool.PoolConnectionProxy[Any]

T = TypeVar("T")

SEARCH_PATH = "pg_catalog, pg_temp"
"""The search path in every transaction of a step. With the role's own path, a user's function or operator with matching
argument types would be called instead of the built-in one, with the role's rights."""
_PIN = f"set local search_path = {SEARCH_PATH}"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a step waits for locks. Other sessions that need the table wait behind it, so it waits only briefly, and
    pauses before it tries again.
    """

    lock_timeout: float = 2.0
    """How many seconds a step waits for a lock."""
    tries: int = 20
    """How often a step is tried."""
    pause: float = 1.5
    """The average number of seconds between two tries; the actual pause is 0.5 to 1.5 times as long, at random."""


PATIENCE = Patience()


class Interrupted(Exception):
    """A step has to be tried again."""


RETRYABLE = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InternalServerError,  # "tuple concurrently updated": by a concurrent GRANT on an object that is replaced
    Interrupted,
)


def refuse_transaction(conn: Connection) -> None:
    """Raise SchemaError if the connection is in a transaction, because each step needs one of its own."""
    if conn.is_in_transaction():
        raise SchemaError("Each step needs a transaction of its own: give a connection that is not in one.")


@contextlib.asynccontextmanager
async def reading(conn: Connection) -> AsyncIterator[None]:
    """Run the block, which only reads, with the search path of steps: in a new transaction, or in the one that the
    connection is in, where the path is restored afterwards.
    """
    if not conn.is_in_transaction():
        async with conn.transaction(isolation="read_committed"):
            await conn.execute(_PIN)
            yield
        return
    before = await conn.fetchval("select pg_catalog.current_setting('search_path')")
    await conn.execute(_PIN)
    try:
        yield
    finally:
        with contextlib.suppress(asyncpg.InFailedSQLTransactionError):  # all that is left to it is to roll back
            await conn.execute("select pg_catalog.set_config('search_path', $1, true)", before)


@contextlib.asynccontextmanager
async def transaction(conn: Connection, schema: str, patience: Patience) -> AsyncIterator[None]:
    """Run the block in a transaction under an advisory lock of this schema, so that steps run one at a time, and with
    short waits for other locks. All settings end with the transaction, because the session may belong to a pooler.
    """
    # With a stricter isolation level the versions would be read from a snapshot that is older than the wait.
    async with conn.transaction(isolation="read_committed"):
        await conn.execute(_PIN)
        await conn.execute(
            "select set_config('lock_timeout', $1, true), set_config('statement_timeout', '0', true)",
            f"{int(patience.lock_timeout * 1000)}ms",
        )
        await conn.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", _lock_name(schema))
        yield


@contextlib.asynccontextmanager
async def unlimited(conn: Connection) -> AsyncIterator[None]:
    """Run the block, a statement that cannot run in a transaction, without a statement_timeout and with the search path
    of steps; both are restored afterwards.

    Behind a pooler nothing is set: each statement may run in another session, where the setting would remain.
    """
    async with conn.transaction():  # both messages of this statement must reach the same session
        [(session, timeout, path)] = await conn.fetch(
            "select pg_catalog.pg_backend_pid(), pg_catalog.current_setting('statement_timeout'), "
            "pg_catalog.current_setting('search_path')"
        )
    if session != conn.get_server_pid():
        yield
        return
    change = (
        "select pg_catalog.set_config('statement_timeout', $1, false), pg_catalog.set_config('search_path', $2, false)"
    )
    await conn.execute(change, "0", SEARCH_PATH)
    try:
        yield
    finally:
        if not conn.is_closed():
            await conn.execute(change, timeout, path)


async def with_retries(
    conn: Connection, schema: str, what: str, patience: Patience, attempt: Callable[[], Awaitable[T]], table: str = ""
) -> T:
    """Call `attempt` and return its result; try again if other sessions hold the locks that it needs.

    Raises:
        SchemaError: it has failed `patience.tries` times. The message names sessions that hold locks on the schema's
            tables, or on `table`.
    """
    for tried in range(1, patience.tries + 1):
        try:
            return await attempt()
        except RETRYABLE as error:
            if tried == patience.tries:
                raise SchemaError(
                    f"{what} could not be done in {tried} tries: {str(error) or type(error).__name__}. "
                    f"{await _blockers(conn, schema, table)} Repeating the command is safe."
                ) from error
        await asyncio.sleep(patience.pause * random.uniform(0.5, 1.5))
    raise AssertionError("a step is tried at least once")


async def _blockers(conn: Connection, schema: str, table: str) -> str:
    """Return a sentence about the sessions that hold locks now."""
    async with reading(conn):
        rows = await conn.fetch(statement("blockers", schema), _lock_name(schema), table or None)
    if not rows:
        return "No session holds such locks any more; a prepared transaction may (pg_prepared_xacts)."
    sessions = [
        f"{pid} ({application or 'unnamed'}, {state or 'state not visible'}"
        + (")" if seconds is None else f", in a transaction for {seconds:.0f} s)")
        for pid, application, state, seconds in rows
    ]
    return f"Sessions that hold locks: {'; '.join(sessions)}."


def _lock_name(schema: str) -> str:
    return render("pqlite migrate", schema)
