"""Adapters for connections of callers. Their libraries are recognised by class and module, and never imported here.

SQLAlchemy begins a transaction only with its first statement. A statement that went directly to its driver before that
would commit by itself, so `exec_driver_sql` is used, which begins the transaction.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import Any, Protocol

import asyncpg

from pqlite.errors import ConfigurationError, NotInTransaction
from pqlite.uninterrupted import uninterrupted

logger = logging.getLogger(__name__)

ACCEPTED = (
    "an asyncpg connection, a SQLAlchemy AsyncSession or AsyncConnection (driver asyncpg or psycopg), a psycopg "
    "AsyncConnection, or what Tortoise, Piccolo or databases yield for a transaction"
)
WRAPPED_IN = ("raw_connection", "_connection", "connection")
"""Where databases, Tortoise and Piccolo keep the driver's connection."""

_ASYNCPG = (asyncpg.Connection, asyncpg.pool.PoolConnectionProxy)

INTRANS = 2
"""libpq's status of a connection inside a transaction."""


class Lent(Protocol):
    """A connection of a caller, which pqlite does not close."""

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        """Run one statement with `$1`-style parameters; return its rows, whose columns are read by position.

        Raises:
            Exception: what the caller's library raises.
        """
        ...

    async def execute(self, sql: str) -> object:
        """Run one command."""
        ...

    async def in_transaction(self) -> bool:
        """Return whether the caller's commit or rollback decides about a statement that is run now."""
        ...


class _Asyncpg:
    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self.fetch = conn.fetch
        self.execute = conn.execute

    async def in_transaction(self) -> bool:
        return bool(self._conn.is_in_transaction())


class _Psycopg:
    def __init__(self, conn: Any) -> None:
        self._conn = conn

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        # A plain cursor, whatever cursor class the connection is set to use.
        cursor = sys.modules["psycopg"].AsyncCursor(self._conn, row_factory=sys.modules["psycopg.rows"].tuple_row)
        async with cursor:
            await cursor.execute(_named(sql), _by_name(arguments))
            rows: Sequence[Any] = await cursor.fetchall()
            return rows

    async def execute(self, sql: str) -> object:
        return await self._conn.execute(sql)

    async def in_transaction(self) -> bool:
        return not self._conn.autocommit or self._conn.info.transaction_status == INTRANS


class _SQLAlchemy:
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._driver = connection.dialect.driver

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        given = (sql, arguments) if self._driver == "asyncpg" else (_named(sql), _by_name(arguments))
        rows: Sequence[Any] = (await self._connection.exec_driver_sql(*given)).all()
        return rows

    async def execute(self, sql: str) -> object:
        return await self._connection.exec_driver_sql(sql)

    async def in_transaction(self) -> bool:
        raw = await self._connection.get_raw_connection()
        if not raw.dbapi_connection.autocommit:
            return True
        driver = _of_driver(raw.driver_connection)
        return driver is not None and await driver.in_transaction()


async def lent(conn: Any) -> Lent:
    """Return the adapter for a caller's connection.

    Raises:
        ConfigurationError: it is not a connection that can be used.
        Exception: what the caller's session raises when asked for its connection.
    """
    if isinstance(conn, _ASYNCPG):
        return _Asyncpg(conn)
    modules = _modules(conn)
    if "sqlalchemy.ext.asyncio" in modules and hasattr(conn, "get_bind"):
        return _of_sqlalchemy(await conn.connection())
    if "sqlalchemy.ext.asyncio" in modules and hasattr(conn, "exec_driver_sql"):
        return _of_sqlalchemy(conn)
    if "sqlalchemy" not in modules:
        for candidate in (conn, *_wrapped(conn)):
            if (driver := _of_driver(candidate)) is not None:
                return driver
    hint = ""
    if not modules.isdisjoint(("psycopg", "psycopg2", "sqlalchemy")):
        hint = ". Synchronous code enqueues by SQL: select id from pqlite.enqueue('job_type', '{}')"
    raise ConfigurationError(f"conn must be {ACCEPTED}; not a {type(conn).__name__}{hint}")


async def lent_in_transaction(conn: Any, *, strict: bool, what: str) -> Lent:
    """Return the adapter for a caller's connection. If it is in no transaction, log that, or raise with `strict`.

    Raises:
        NotInTransaction: see above; nothing was done.
        ConfigurationError: it is not a connection that can be used.
    """
    found = await lent(conn)
    if not await found.in_transaction():
        sentence = f"{what} on a connection that is in no transaction: committed at once, a rollback will not undo it"
        if strict:
            raise NotInTransaction(f"Refused (strict): {sentence}.")
        logger.info("%s.", sentence)
    return found


@asynccontextmanager
async def all_or_none(conn: Lent) -> AsyncIterator[None]:
    """Undo what the block did on a caller's connection if it raises, also if the caller then commits: a savepoint.

    It is begun by SQL, because asyncpg refuses to make a savepoint in a transaction that was begun by SQL.
    """
    within = await conn.in_transaction()
    try:
        await conn.execute("savepoint pqlite_enqueue_many" if within else "begin")
        yield
    except BaseException:
        with suppress(Exception):  # if the connection is lost, the server rolls back
            await uninterrupted(_undo(conn, within=within))
        raise
    await conn.execute("release savepoint pqlite_enqueue_many" if within else "commit")


async def _undo(conn: Lent, *, within: bool) -> None:
    await conn.execute("rollback to savepoint pqlite_enqueue_many" if within else "rollback")


def _of_sqlalchemy(connection: Any) -> Lent:
    dialect = connection.dialect
    if dialect.name != "postgresql" or dialect.driver not in ("asyncpg", "psycopg"):
        raise ConfigurationError(
            f"conn must be {ACCEPTED}; not one of SQLAlchemy's for {dialect.name}+{dialect.driver}"
        )
    return _SQLAlchemy(connection)


def _of_driver(conn: Any) -> Lent | None:
    if isinstance(conn, _ASYNCPG):
        return _Asyncpg(conn)
    if "psycopg" in _modules(conn) and hasattr(conn, "set_autocommit") and hasattr(conn, "__aenter__"):
        return _Psycopg(conn)
    return None


def _wrapped(conn: Any) -> list[Any]:
    found = []
    for attribute in WRAPPED_IN:
        with suppress(Exception):  # a property that raises in this state of the connection
            found.append(getattr(conn, attribute))
    return found


def _modules(conn: Any) -> set[str]:
    """Return the names of the packages that a connection's class, or one it derives from, is defined in."""
    names: set[str] = set()
    for base in type(conn).__mro__:
        parts = base.__module__.split(".")
        names.update(".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return names


@lru_cache
def _named(sql: str) -> str:
    """Return a statement with psycopg's parameters."""
    return re.sub(r"\$(\d+)", r"%(p\1)s", sql.replace("%", "%%"))


def _by_name(arguments: Sequence[Any]) -> dict[str, Any]:
    # psycopg adapts tuples as records and lists as arrays.
    return {f"p{n}": list(a) if isinstance(a, tuple) else a for n, a in enumerate(arguments, 1)}
