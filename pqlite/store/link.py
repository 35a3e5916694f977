"""One dedicated connection with deadlines: made when needed, thrown away when in doubt, made again."""

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

# SQLSTATE classes of errors that speak of the server, the session or a wait, and not of what was asked.
_WEATHER = ("08", "25", "53", "55", "57", "58", "F0", "XX")


def is_weather(error: Exception) -> bool:
    """Return whether an error says nothing against what was asked, so that asking again may help."""
    if isinstance(error, asyncpg.PostgresError):
        return sqlstate(error)[:2] in _WEATHER
    return isinstance(error, (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError))


def says_server_is_down(error: BaseException, *, direct: bool) -> bool:
    """Return whether an error shows that the server itself is away, rather than the way to it.

    A refused connection does so only where nothing stands between (`direct`): a proxy that has died refuses too.
    """
    refused = direct and isinstance(error, (ConnectionRefusedError, FileNotFoundError))
    return refused or sqlstate(error) in _SERVER_DOWN


def is_direct(host: str | None, port: int | None, socket: Any) -> bool:
    """Return whether the server has the address that we connect to: no proxy, no address translation between."""
    peer = None if socket is None else socket.getpeername()
    if isinstance(peer, tuple):
        return (host, port) == (peer[0], peer[1])
    return peer is not None and host is None  # a Unix socket on both sides


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of a server's error (also as SQLAlchemy wraps it), an empty string for anything else."""
    return str(getattr(error, "sqlstate", None) or getattr(getattr(error, "orig", None), "sqlstate", None) or "")


class Link:
    """A connection of one's own, for one statement at a time.

    A statement that does not answer before its deadline, or is cancelled, costs the connection: nobody can tell in
    what state it is. `terminate` and not `close`: a black-holed connection never answers a goodbye.
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
        """What ended the latest connection, or kept the next from being made; None while connected."""
        self.lost_at = 0.0
        """When the latest connection was thrown away (time.monotonic)."""
        _links.add(self)

    @property
    def connected(self) -> bool:
        """Return whether the connection is believed to be up."""
        return self._conn is not None and not self._conn.is_closed()

    async def fetch(self, sql: str, *args: Any, deadline: float) -> list[asyncpg.Record]:
        """Run one statement, on a new connection if need be, within `deadline` seconds in all.

        Raises:
            TimeoutError: no answer in time; the connection is dropped.
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
        """Make the connection if there is none.

        Raises:
            TimeoutError, OSError, asyncpg.PostgresError: it cannot be made.
        """
        async with asyncio.timeout(deadline), self._lock:
            await self._connected()

    async def close(self, seconds: float = 1.0) -> None:
        """Close the connection, politely if it answers within `seconds`."""
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
        """The connection's socket, None if it cannot be had (asyncpg has no public way)."""
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
    """A forked child inherits the sockets, and would keep a dead parent's connections, and its lock, alive."""
    for link in list(_links):
        with suppress(Exception):
            if (socket := link.socket) is not None:
                # The number stays taken: asyncpg's own object may close it again.
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, socket.fileno())
                os.close(null)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
