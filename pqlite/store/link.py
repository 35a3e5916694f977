"""One dedicated connection with deadlines: opened when needed, closed when its state is in doubt, opened again."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg

CONNECT_SECONDS = 5.0

# The server says that it goes down, is down, or is coming up (57P01 to 57P03).
_SERVER_DOWN = ("57P01", "57P02", "57P03")

# SQLSTATE classes of errors about the server, the session or a lock, which are no fault of the statement.
_TEMPORARY = ("08", "25", "53", "55", "57", "58", "F0", "XX")


def is_temporary(error: Exception) -> bool:
    """Return whether an error is temporary: the same statement may succeed later."""
    if isinstance(error, asyncpg.PostgresError):
        return sqlstate(error)[:2] in _TEMPORARY
    return isinstance(error, (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError))


def says_server_is_down(error: BaseException, *, direct: bool) -> bool:
    """Return whether an error shows that the server itself is down, and not only the network.

    A refused connection shows that only on a direct connection: a proxy that has died refuses connections, too.
    """
    refused = direct and isinstance(error, (ConnectionRefusedError, FileNotFoundError))
    return refused or sqlstate(error) in _SERVER_DOWN


def is_direct(host: str | None, port: int | None, socket: Any) -> bool:
    """Return whether the server has the address that we connect to: there is no proxy or address translation."""
    peer = None if socket is None else socket.getpeername()
    if isinstance(peer, tuple):
        return (host, port) == (peer[0], peer[1])
    return peer is not None and host is None  # a Unix socket on both sides


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of a server's error (also as SQLAlchemy wraps it), an empty string for anything else."""
    return str(getattr(error, "sqlstate", None) or getattr(getattr(error, "orig", None), "sqlstate", None) or "")


class Link:
    """A connection for one statement at a time.

    If a statement is not answered before its deadline, or is cancelled, the connection is closed, because its state is
    unknown. By `terminate` and not `close`, which would wait for an answer.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection[Any]]],
        on_connect: Callable[[asyncpg.Connection[Any]], Awaitable[None]] | None = None,
    ) -> None:
        self._connect = connect
        self._on_connect = on_connect
        self._conn: asyncpg.Connection[Any] | None = None
        self._lock = asyncio.Lock()
        self.generation = 0
        """How many connections there have been; a change means that answers may have been lost."""
        self.last_error: BaseException | None = None
        """The error that ended the latest connection or prevented the next; None while connected."""
        self.lost_at = 0.0
        """When the latest connection was closed because of an error (time.monotonic)."""
        _links.add(self)

    @property
    def connected(self) -> bool:
        """Return whether the connection is open, as far as is known."""
        return self._conn is not None and not self._conn.is_closed()

    async def fetch(self, sql: str, *args: Any, deadline: float) -> list[asyncpg.Record]:
        """Run one statement, on a new connection if there is none, within `deadline` seconds in total.

        Raises:
            TimeoutError: there was no answer in time; the connection is closed.
            OSError, asyncpg.PostgresError, asyncpg.InterfaceError: as asyncpg raises them.
        """
        async with asyncio.timeout(deadline), self._lock:
            conn = await self._connected()
            try:
                return await conn.fetch(sql, *args)
            except asyncpg.PostgresError as error:
                # 25006: a standby, or a primary that became one. Another connection may reach the new primary.
                if conn.is_closed() or sqlstate(error)[:2] in ("08", "57") or sqlstate(error) == "25006":
                    self._drop(error)
                raise
            except BaseException as error:
                self._drop(error)
                raise

    async def connect(self, deadline: float) -> None:
        """Open the connection if there is none.

        Raises:
            TimeoutError, OSError, asyncpg.PostgresError: it cannot be opened.
        """
        async with asyncio.timeout(deadline), self._lock:
            await self._connected()

    async def close(self, seconds: float = 1.0) -> None:
        """Close the connection; wait up to `seconds` (at most 1) for the server's answer."""
        conn, self._conn = self._conn, None
        if conn is not None and not conn.is_closed():
            with suppress(Exception):
                async with asyncio.timeout(min(seconds, 1.0)):
                    await conn.close()
            conn.terminate()

    def holds(self, conn: object) -> bool:
        """Return whether this is the connection in use."""
        return conn is self._conn

    @property
    def socket(self) -> Any:
        """The connection's socket; None if there is none. (asyncpg has no public attribute for it.)"""
        transport = getattr(self._conn, "_transport", None)
        return None if transport is None else transport.get_extra_info("socket")

    async def _connected(self) -> asyncpg.Connection[Any]:
        if self._conn is not None:
            if not self._conn.is_closed():
                return self._conn
            self._drop(self.last_error)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                conn = await self._connect()
        except BaseException as error:
            self.last_error = error
            raise
        self._conn = conn
        try:
            if self._on_connect is not None:
                await self._on_connect(conn)
        except BaseException as error:
            self._drop(error)
            raise
        self.generation += 1
        self.last_error = None
        return conn

    def _drop(self, error: BaseException | None) -> None:
        conn, self._conn = self._conn, None
        self.last_error = error
        if conn is not None:
            self.lost_at = time.monotonic()
            conn.terminate()


_links: weakref.WeakSet[Link] = weakref.WeakSet()


def _close_in_child() -> None:
    """Close inherited sockets: a forked child would keep the connections and the lock of a dead parent alive."""
    for link in list(_links):
        with suppress(Exception):
            if (socket := link.socket) is not None:
                # The file descriptor stays in use, because asyncpg's object may close it again.
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, socket.fileno())
                os.close(null)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
