"""How a step of a migration is taken: in a transaction of its own, never waiting long for a lock, tried again."""

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
"""In every transaction of a step: a function or operator that somebody made in a schema of the role's search path, for
exactly the types of a call, would be called instead of the built-in one, with the role's rights."""
_PIN = f"set local search_path = {SEARCH_PATH}"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a step waits for locks. While it does, all who want the table wait behind it: so not for long, and
    with pauses in which they get through.
    """

    lock_timeout: float = 2.0
    """Seconds that a step waits for one lock."""
    tries: int = 20
    """How often a step is begun."""
    pause: float = 1.5
    """Seconds between two tries on average; a half to one and a half of it, by chance."""


PATIENCE = Patience()


class Interrupted(Exception):
    """A step found that it must be begun again."""


RETRYABLE = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InternalServerError,  # "tuple concurrently updated": somebody granted rights on what was being replaced
    Interrupted,
)


def refuse_transaction(conn: Connection) -> None:
    """Raise SchemaError if steps cannot have transactions of their own on the connection, because it is in one."""
    if conn.is_in_transaction():
        raise SchemaError("Each step needs a transaction of its own: give a connection that is not in one.")


@contextlib.asynccontextmanager
async def looking(conn: Connection) -> AsyncIterator[None]:
    """Run the block, which only reads, where names mean the built-in functions and operators whatever the role's search
    path is: in a transaction, or in the one that the connection is in, which has its own path again afterwards.
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
    """Run the block in a transaction that is the only one of its kind in this schema, with short waits for locks.

    All of it ends with the transaction: nothing stays in the session, which may be a pooler's.
    """
    # A stricter isolation, set for the role, would look at the versions with a snapshot from before the wait.
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
    """Run the block, a statement that can run in no transaction, without a statement_timeout and with the search path
    of steps; afterwards the session has its own again.

    Not behind a pooler: there each statement may come to another session, and what is set be left in one of them.
    """
    async with conn.transaction():  # of both messages of this statement, by one session
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


async def patiently(
    conn: Connection, schema: str, what: str, patience: Patience, attempt: Callable[[], Awaitable[T]], table: str = ""
) -> T:
    """Return what `attempt` returns, tried again while others hold the locks it needs.

    Raises:
        SchemaError: they still do. It says who they are; `table` is a table beside the schema's own to look at.
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
    """Say who may have been in the way: asked afterwards, as one connection cannot wait and look."""
    async with looking(conn):
        rows = await conn.fetch(statement("blockers", schema), _lock_name(schema), table or None)
    if not rows:
        return "Nobody holds such locks any more, unless a prepared transaction does (pg_prepared_xacts)."
    sessions = [
        f"{pid} ({application or 'unnamed'}, {state or 'state not visible'}"
        + (")" if seconds is None else f", in a transaction for {seconds:.0f} s)")
        for pid, application, state, seconds in rows
    ]
    return f"Sessions that hold locks: {'; '.join(sessions)}."


def _lock_name(schema: str) -> str:
    return render("pqlite migrate", schema)
