"""A store on one connection of a test, inside its transaction: a rollback removes all jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from pqlite import schema as ddl
from pqlite.errors import ConfigurationError, NotInTransaction
from pqlite.store.awaiting import Poller
from pqlite.store.engine import Engine
from pqlite.store.link import Link
from pqlite.store.postgres import PgJobStore
from pqlite.store.validation import Row
from pqlite.store.writer import Answer
from pqlite.testing.draining import PURPOSE


def bound(conn: Any, *, schema: str = ddl.DEFAULT, strict: bool = False) -> PgJobStore:
    """Return a store that uses only one asyncpg connection, in its transaction.

        transaction = conn.transaction()
        await transaction.start()
        store = bound(conn)
        await store.enqueue("mail", {"to": 7})
        await drain(store, handlers)            # runs it, in the transaction
        await transaction.rollback()            # nothing remains

    Each verb runs in a savepoint, so that the transaction stays usable if it fails. The store is already started and
    has nothing to close. Other sessions do not see its jobs, so a Worker cannot run them, but `drain` and `inline` can.
    Only the test may use the connection, and one statement at a time. From a SQLAlchemy session you get it, after its
    first statement, by `(await (await session.connection()).get_raw_connection()).driver_connection`.

    After the end of the transaction every verb raises NotInTransaction. If another task uses the connection for more
    than 10 seconds (in `store.transaction()` or `ctx.complete()`), a verb raises TimeoutError.

    Raises:
        NotInTransaction: the connection is in no transaction (begin it with `conn.transaction()`).
        ConfigurationError: it is not an asyncpg connection.
    """
    if not hasattr(conn, "is_in_transaction"):
        raise ConfigurationError(
            f"bound() needs an asyncpg connection, not a {type(conn).__name__}. A SQLAlchemy session with that "
            "driver has it: (await (await session.connection()).get_raw_connection()).driver_connection"
        )
    if not conn.is_in_transaction():
        raise NotInTransaction("bound() needs a connection in a transaction, or its jobs would stay.")
    return BoundJobStore(OneConnection(conn), schema=schema, strict=strict)


PATIENCE = 10.0


class OneConnection:
    """Lends one connection to one task at a time, each time in a savepoint. It takes the place of a pool."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self._free = asyncio.Lock()
        self._lent_to: asyncio.Task[Any] | None = None

    @asynccontextmanager
    async def acquire(self, *, timeout: float | None = None) -> AsyncIterator[Any]:
        """Yield the connection, also to the task that already has it.

        Raises:
            TimeoutError: another task has not returned it within `timeout` seconds, 10 at most.
            NotInTransaction: the transaction has ended.
        """
        task = asyncio.current_task()
        if self._lent_to is task:
            async with self._conn.transaction():
                yield self._conn
            return
        await self._taken(PATIENCE if timeout is None else min(timeout, PATIENCE))
        self._lent_to = task
        try:
            if not self._conn.is_in_transaction():
                raise NotInTransaction("The transaction that the store is bound to has ended: its jobs would stay.")
            async with self._conn.transaction():
                yield self._conn
        finally:
            self._lent_to = None
            self._free.release()

    async def _taken(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._free.acquire()
        except TimeoutError:
            raise TimeoutError(
                f"Another task has had the connection that the store is bound to for {seconds:g} s: within "
                "store.transaction() or ctx.complete() no other task can use the store, also none of drain's."
            ) from None

    def is_closing(self) -> bool:
        """Return False: `acquire` checks the connection."""
        return False

    async def expire_connections(self) -> None:
        """Do nothing: there is no other connection."""


class BoundLink(Link):
    """The link of an engine whose verbs share the test's connection, which its caller made and closes."""

    def __init__(self, one: OneConnection) -> None:
        super().__init__(_never)
        self._one = one

    async def fetch(self, sql: str, *args: Any, deadline: float) -> list[Any]:
        """Run one statement within `deadline` seconds."""
        async with asyncio.timeout(deadline), self._one.acquire() as conn:
            rows: list[Any] = await conn.fetch(sql, *args)
            return rows


async def _never() -> Any:
    raise NotInTransaction("There is no other connection than the one that the store is bound to.")


class _OneByOne:
    """Takes the place of the EnqueueWriter, whose tasks would use the connection while the caller uses it."""

    def __init__(self, write: Callable[[Row], Awaitable[Answer]]) -> None:
        self.write = write


class BoundJobStore(PgJobStore):
    """A PgJobStore on one connection; see `bound`."""

    def __init__(self, one: OneConnection, *, schema: str, strict: bool) -> None:
        super().__init__(pool=cast(Any, one), schema=schema, strict=strict)
        self._one = one
        self._writer = cast(Any, _OneByOne(self._write))
        # A Watcher's task would use the connection while the caller uses it.
        self._watcher = cast(Any, Poller(self._ended))

    async def _write(self, values: Row) -> Answer:
        async with self.connection() as conn:
            [answer] = await conn.fetch(self._sql.enqueue, *values, None)
        self._enqueued()
        return Answer(*answer)

    def engine(self, purpose: str) -> Engine:
        """Return the engine's verbs on the same connection.

        Raises:
            ConfigurationError: a Worker asks, which needs connections of its own.
        """
        if purpose != PURPOSE:
            raise ConfigurationError("A store bound to one connection cannot serve a Worker: run its jobs with drain()")
        return Engine(BoundLink(self._one), self._sql)
