"""A way to the database: how connections are made over it, and whether a pooler stands on it."""

from __future__ import annotations

import asyncio
import secrets
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from typing import Any

import asyncpg

from pqlite.errors import ConfigurationError
from pqlite.store.hosts import says_which, several_hosts
from pqlite.uninterrupted import others_cancellation_as

Connect = Callable[[], Awaitable["asyncpg.Connection[Any]"]]

HOST_SECONDS = 2.0
TEST_SECONDS = 2.0
GOODBYE_SECONDS = 1.0
ATTEMPTS = 4
ASKED = 4


class Pooling(StrEnum):
    """What a client has of a session on the server."""

    NONE = "none"
    """The session itself: no pooler stands between (or one that cannot be told from the server)."""
    SESSION = "session"
    """A session of a pooler's, until the client disconnects."""
    TRANSACTION = "transaction"
    """A session until the transaction ends, then perhaps another: nothing that belongs to a session can be relied on,
    and what is set for it is set for others. Statements cannot be prepared, LISTEN is deaf, locks are lost.
    """


class Route:
    """Makes connections, and finds out what they meet.

    Each new one is asked whether the process that serves it is the one that greeted it: a pooler makes its greetings
    up. What was found is remembered, because prepared statements must be off before a connection is made; the mode of
    a pooler is asked once. It may be used from several event loops.

    Args:
        dsn: where the database is. With several hosts, unless it says otherwise (`target_session_attrs`), the first
            that accepts writes: a standby is passed over.
        connect: a function that returns a new connection; it is preferred to a dsn.
        name: what the user calls the dsn, for messages. The dsn itself is in none.
    """

    def __init__(self, dsn: str | None, connect: Connect | None = None, *, name: str = "dsn") -> None:
        self._dsn = dsn if connect is None else None
        self._connect = connect
        self._name = name
        self._hosts = [] if self._dsn is None else several_hosts(self._dsn)
        self._first = 0
        self.pooling: Pooling | None = None
        """What the latest connection met; None before the first."""
        self._tested = False
        self.unlike: weakref.WeakSet[asyncpg.Connection[Any]] = weakref.WeakSet()
        """Connections on which the role's or the database's defaults are not what pqlite wants."""
        self.reported = False
        """Whether it was looked for settings that cannot be changed behind a pooler."""

    async def connection(self, label: str, settings: Mapping[str, str]) -> asyncpg.Connection[Any]:
        """Return a new connection, which is the caller's; `label` is its application_name (a user's function gives it
        one of its own). Its session gets the settings, unless others use it as well; they are pqlite's own constants.

        Raises:
            OSError: nobody is there, or no host accepts writes.
            asyncpg.PostgresError, asyncpg.InterfaceError: it is refused, or breaks.
            ConfigurationError: the dsn cannot be used.
        """
        # Made for a pooler and meeting none, or the other way round, it is made again: the next may meet yet another.
        for _ in range(ATTEMPTS - 1):
            conn, fits = await self._attempt(label, settings)
            if fits:
                return conn
            await _say_goodbye(conn)
        conn, _ = await self._attempt(label, settings, for_any=True)
        return conn

    async def _attempt(
        self, label: str, settings: Mapping[str, str], *, for_any: bool = False
    ) -> tuple[asyncpg.Connection[Any], bool]:
        """Return a new connection, and whether it was made for what it met: a pooler, or none.

        `for_any`: it prepares no statements, and works with either.
        """
        prepares = self._prepares and not for_any
        conn = await self._open(label, prepares)
        try:
            # As text, and answered by a count of rows: nothing is prepared, whatever stands between; and nothing is set
            # where it would be set for somebody else.
            greeter = int(conn.get_server_pid() or 0)
            if await conn.execute(f"{setting(settings)} and pg_catalog.pg_backend_pid() = {greeter}") != "SELECT 0":
                self.pooling, self._tested = Pooling.NONE, False
            elif not self._tested:
                self.pooling, self._tested = await _pooling(lambda: self._open(label, False))
            if self.pooling is Pooling.SESSION:
                await conn.execute(setting(settings))
        except BaseException:
            conn.terminate()
            raise
        return conn, prepares == self._prepares or self._connect is not None

    @property
    def _prepares(self) -> bool:
        """Whether statements are prepared on new connections. Not on the first of those that may lead to several hosts:
        to choose among them asyncpg prepares a query of its own.
        """
        return self.pooling is not Pooling.TRANSACTION and (self.pooling is not None or not self._hosts)

    async def _open(self, label: str, prepares: bool) -> asyncpg.Connection[Any]:
        if self._connect is not None:
            with others_cancellation_as(ConnectionError, "What the connect function waited for was cancelled."):
                return await self._connect()
        options: dict[str, Any] = {
            "server_settings": {"application_name": label},  # nothing else: a pooler may refuse what it does not know
            "statement_cache_size": 100 if prepares else 0,
        }
        try:
            if self._hosts:
                return await self._open_one(options)
            conn: asyncpg.Connection[Any] = await asyncpg.connect(self._dsn, **options)
            return conn
        except OSError:
            raise  # of which some are ValueErrors too
        except (ValueError, OverflowError) as error:
            raise ConfigurationError(f"{self._name} cannot be used: {_reason(error)}") from None

    async def _open_one(self, options: dict[str, Any]) -> asyncpg.Connection[Any]:
        """Try one host after the other, beginning with the one that served last.

        Not left to asyncpg, which waits for a host that does not answer for as long as for all of them.
        """
        reasons: list[str] = []
        kind: type[ConnectionError] = ConnectionRefusedError
        if not says_which(self._dsn or ""):
            options |= {"target_session_attrs": "read-write"}
        first = self._first
        for place in range(first, first + len(self._hosts)):
            number = place % len(self._hosts)
            host = self._hosts[number]
            self._first = number + 1  # unless this one serves, also if the attempt is cut short
            try:
                async with asyncio.timeout(HOST_SECONDS):
                    conn: asyncpg.Connection[Any]
                    conn = await asyncpg.connect(self._dsn, host=host.name, port=host.port, **options)
            except asyncpg.TargetServerAttributeNotMatched:
                reasons.append(f"host {number + 1} is a standby, or has default_transaction_read_only")
            except (OSError, asyncpg.CannotConnectNowError) as error:
                reasons.append(f"host {number + 1}: {str(error) or 'no answer'}")
                if not isinstance(error, (ConnectionRefusedError, FileNotFoundError, asyncpg.CannotConnectNowError)):
                    kind = ConnectionError  # it may yet be there
            else:
                self._first = number
                return conn
        raise kind(f"No host of the {self._name} accepts writes ({'; '.join(reasons)})")


def _reason(error: Exception) -> str:
    """Return what asyncpg says of a dsn, unless it quotes the piece that it could not read: perhaps a password."""
    if isinstance(error, asyncpg.ClientConfigurationError) and "URI" not in str(error):
        return " ".join(str(error).split())
    return (
        "a part of it cannot be read (it is not shown here: it may hold a password); "
        "it must look like postgresql://user:password@host:5432/database"
    )


def setting(settings: Mapping[str, str]) -> str:
    """Return the statement that sets these for the session, where the server knows them (some are of later versions).

    To be sent as text, so that one message does; every value is a constant of pqlite's.
    """
    values = ", ".join(f"('{name}', '{value}')" for name, value in settings.items())
    return (
        f"select pg_catalog.set_config(name, value, false) from (values {values}) s (name, value) "  # noqa: S608 - constants
        "where pg_catalog.current_setting(name, true) is not null"
    )


async def _pooling(connect: Connect) -> tuple[Pooling, bool]:
    """Return what kind of pooler stands between, and whether that is certain: the stricter one, if there was no time
    to find out.
    """
    channel, heard = f"pqlite_probe_{secrets.token_hex(8)}", asyncio.Event()

    def hear(*_: object) -> None:
        heard.set()

    try:
        async with asyncio.timeout(TEST_SECONDS), _for_now(connect) as one, _for_now(connect) as other:
            # Two clients, one session, or one client and several: they are lent by the transaction. Most poolers lend
            # the latest used one first, others take turns; and one that is in use is not lent.
            mine = await _backend(one)
            if mine == await _backend(other):
                return Pooling.TRANSACTION, True
            async with other.transaction():
                await other.execute("select 1")
                if any([await _backend(one) != mine for _ in range(ASKED)]):
                    return Pooling.TRANSACTION, True
            # A notification comes between transactions: who has no session then does not hear it. Only now: there, the
            # LISTEN would stay in somebody's session.
            await one.add_listener(channel, hear)
            try:
                await other.execute(f"notify {channel}")
                await asyncio.wait_for(heard.wait(), TEST_SECONDS / 2)
            except TimeoutError:
                return Pooling.TRANSACTION, True
            finally:
                await one.remove_listener(channel, hear)
            return Pooling.SESSION, True
    except TimeoutError:
        return Pooling.TRANSACTION, False


@asynccontextmanager
async def _for_now(connect: Connect) -> AsyncIterator[asyncpg.Connection[Any]]:
    conn = await connect()
    try:
        yield conn
    finally:
        await _say_goodbye(conn)


async def _backend(conn: asyncpg.Connection[Any]) -> int:
    async with conn.transaction():  # of both messages that an unnamed statement takes, by one session
        statement = await conn.prepare("select pg_catalog.pg_backend_pid()", name="")
        return int(await statement.fetchval())


async def _say_goodbye(conn: asyncpg.Connection[Any]) -> None:
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        async with asyncio.timeout(GOODBYE_SECONDS):
            await conn.close()
    conn.terminate()
