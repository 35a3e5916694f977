"""The connections of a store in memory, which `enqueue(conn=...)` takes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from pqlite.errors import ConfigurationError, NotInTransaction
from pqlite.testing.memory.table import Table, Transaction


class MemoryConnection:
    """A connection to a MemoryJobStore. It has transactions, but no SQL."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._transaction: Transaction | None = None
        self._closed = False
        self._own_key: str | None = None
        self._complete: Callable[[], Awaitable[None]] | None = None

    def completes(self, own_key: str | None, complete: Callable[[], Awaitable[None]]) -> None:
        """Let `complete` make a job DONE in the transaction: at its end, or before a job with `own_key` is inserted."""
        self._own_key, self._complete = own_key, complete

    async def complete(self) -> None:
        """Make the job DONE, unless it is."""
        if (complete := self._complete) is not None:
            self._complete = None
            await complete()

    async def before_key(self, key: str) -> None:
        """Make the job DONE if it has this key: that frees the key."""
        if key == self._own_key:
            await self.complete()

    def is_in_transaction(self) -> bool:
        """Return whether a transaction is open."""
        return self._transaction is not None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryConnection]:
        """Begin a transaction, or a savepoint within one: committed when the block ends, rolled back when it raises.

        Raises:
            NotInTransaction: the transaction around a savepoint has failed.
        """
        if (outer := self._transaction) is not None:
            _see_sound(outer, "A savepoint")
            with self._table.lock:
                outer.savepoint()
            try:
                yield self
            except BaseException:
                with self._table.lock:
                    outer.go_back()
                raise
            finally:
                outer.forget_savepoint()
            _see_sound(outer, "The end of a savepoint")
            return
        with self._table.lock:
            self._transaction = transaction = self._table.begin()
        commits = False
        try:
            yield self
            commits = True
        finally:
            self._transaction = None
            with self._table.lock:
                self._table.end(transaction, commit=commits)

    def close(self) -> None:
        """Refuse further use."""
        self._closed = True

    def __getattr__(self, name: str) -> Any:
        """Explain why an attribute of a database connection does not exist."""
        raise AttributeError(
            f"A MemoryJobStore has no SQL, so there is no {name!r}: test code that runs SQL on PostgreSQL."
        )


def transaction_of(conn: Any, table: Table, *, strict: bool, what: str) -> Transaction | None:
    """Return the transaction of a caller's connection, None if it is in none.

    Raises:
        ConfigurationError: it is not a connection of this store.
        NotInTransaction: it is in none, with `strict`; or that transaction has failed.
    """
    if not isinstance(conn, MemoryConnection) or conn._table is not table or conn._closed:
        raise ConfigurationError(
            f"conn must be a connection of this MemoryJobStore that is in use (store.connection(), store.transaction() "
            f"or ctx.complete()), not {conn!r}"
        )
    transaction = conn._transaction
    if transaction is None and strict:
        raise NotInTransaction(
            f"Refused (strict): {what} on a connection that is in no transaction: committed at once, a rollback will "
            "not undo it."
        )
    if transaction is not None:
        _see_sound(transaction, what)
    return transaction


def _see_sound(transaction: Transaction, what: str) -> None:
    if transaction.failed:
        raise NotInTransaction(f"{what} in a transaction that has failed: roll it back.")
