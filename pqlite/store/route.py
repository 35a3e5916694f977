"""Opens connections to one address, and detects a pooler there."""

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
    """Which kind of pooler a client is connected through."""

    NONE = "none"
    """None, or one that cannot be distinguished from the server."""
    SESSION = "session"
    """A pooler in session mode: the client has one session until it disconnects."""
    TRANSACTION = "transaction"
    """A pooler in transaction mode: each transaction may run in another session. Settings would apply to other clients,
    prepared statements and session-level locks do not work, and LISTEN receives nothing.
    """


class Route:
    """Opens connections, and detects poolers.

    On each new connection the process id that was announced at its start is compared with that of the session: behind
    a pooler they differ. The result is kept, because preparing statements must be turned off before a connection is
    opened. The mode of a pooler is tested once. A route may be used from several event loops.

    Args:
        dsn: the address. With several hosts, connections go to the first that accepts writes, unless the dsn has
            `target_session_attrs`.
        connect: a function that returns a new connection, used instead of a dsn.
        name: the name of the dsn in messages, which never contain the dsn itself.
    """

    def __init__(self, dsn: str | None, connect: Connect | None = None, *, name: str = "dsn") -> None:
        self._dsn = dsn if connect is None else None
        self._connect = connect
        self._name = name
        self._hosts = [] if self._dsn is None else several_hosts(self._dsn)
        self._first = 0
        self.pooling: Pooling | None = None
        """What the latest connection went through; None before the first."""
        self._tested = False
        self.unlike: weakref.WeakSet[asyncpg.Connection[Any]] = weakref.WeakSet()
        """Connections on which defaults of the role or the database differ from `OWN` in connecting.py."""
        self.reported = False
        """Whether harmful settings behind a pooler were reported; see connecting.py."""

    async def connection(self, label: str, settings: Mapping[str, str]) -> asyncpg.Connection[Any]:
        """Open a connection, which the caller closes. `label` is its application_name, except if a user's function
        opens it. The settings, constants of pqlite, are applied to its session, except behind a pooler in transaction
        mode.

        Raises:
            OSError: there is no server, or no host accepts writes.
            asyncpg.PostgresError, asyncpg.InterfaceError: the connection is refused or lost.
            ConfigurationError: the dsn cannot be used.
        """
        # If a connection was opened for a pooler and there is none, or the reverse, it is opened again.
        for _ in range(ATTEMPTS - 1):
            conn, fits = await self._attempt(label, settings)
            if fits:
                return conn
            await _close(conn)
        conn, _ = await self._attempt(label, settings, for_any=True)
        return conn

    async def _attempt(
        self, label: str, settings: Mapping[str, str], *, for_any: bool = False
    ) -> tuple[asyncpg.Connection[Any], bool]:
        """Open a connection; return it, and whether it was opened in the right way: for a pooler, or for none.

        `for_any`: prepare no statements, which works with and without a pooler.
        """
        prepares = self._prepares and not for_any
        conn = await self._open(label, prepares)
        try:
            # By the simple protocol, which prepares nothing. The settings are applied only if the process is the one
            # that was announced, so that behind a pooler nothing is set for other clients.
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
        """Whether statements are prepared on new connections. Not on the first one if there are several hosts, because
        asyncpg then prepares a query to choose among them.
        """
        return self.pooling is not Pooling.TRANSACTION and (self.pooling is not None or not self._hosts)

    async def _open(self, label: str, prepares: bool) -> asyncpg.Connection[Any]:
        if self._connect is not None:
            with others_cancellation_as(ConnectionError, "What the connect function waited for was cancelled."):
                return await self._connect()
        options: dict[str, Any] = {
            "server_settings": {"application_name": label},  # no others: a pooler may refuse unknown parameters
            "statement_cache_size": 100 if prepares else 0,
        }
        try:
            if self._hosts:
                return await self._open_one(options)
            conn: asyncpg.Connection[Any] = await asyncpg.connect(self._dsn, **options)
            return conn
        except OSError:
            raise  # some are ValueErrors, too
        except (ValueError, OverflowError) as error:
            raise ConfigurationError(f"{self._name} cannot be used: {_reason(error)}") from None

    async def _open_one(self, options: dict[str, Any]) -> asyncpg.Connection[Any]:
        """Try the hosts in turn, beginning with the one that was used last.

        asyncpg could do this, but would spend the whole timeout on one host that does not answer.
        """
        reasons: list[str] = []
        kind: type[ConnectionError] = ConnectionRefusedError
        if not says_which(self._dsn or ""):
            options |= {"target_session_attrs": "read-write"}
        first = self._first
        for place in range(first, first + len(self._hosts)):
            number = place % len(self._hosts)
            host = self._hosts[number]
            self._first = number + 1  # for the next call, if this host fails or the call is cancelled
            try:
                async with asyncio.timeout(HOST_SECONDS):
                    conn: asyncpg.Connection[Any]
                    conn = await asyncpg.connect(self._dsn, host=host.name, port=host.port, **options)
            except asyncpg.TargetServerAttributeNotMatched:
                reasons.append(f"host {number + 1} is a standby, or has default_transaction_read_only")
            except (OSError, asyncpg.CannotConnectNowError) as error:
                reasons.append(f"host {number + 1}: {str(error) or 'no answer'}")
                if not isinstance(error, (ConnectionRefusedError, FileNotFoundError, asyncpg.CannotConnectNowError)):
                    kind = ConnectionError  # the host may be up
            else:
                self._first = number
                return conn
        raise kind(f"No host of the {self._name} accepts writes ({'; '.join(reasons)})")


def _reason(error: Exception) -> str:
    """Return asyncpg's message about a dsn, unless it quotes a part of the dsn, which could be a password."""
    if isinstance(error, asyncpg.ClientConfigurationError) and "URI" not in str(error):
        return " ".join(str(error).split())
    return (
        "a part of it cannot be read (it is not shown here: it may hold a password); "
        "it must look like postgresql://user:password@host:5432/database"
    )


def setting(settings: Mapping[str, str]) -> str:
    """Return the statement that applies those of the settings that the server knows to the session. All values are
    constants of pqlite.
    """
    values = ", ".join(f"('{name}', '{value}')" for name, value in settings.items())
    return (
        f"select pg_catalog.set_config(name, value, false) from (values {values}) s (name, value) "  # noqa: S608 - constants
        "where pg_catalog.current_setting(name, true) is not null"
    )


async def _pooling(connect: Connect) -> tuple[Pooling, bool]:
    """Return the kind of pooler, and whether that is certain. If the test takes too long, assume transaction mode."""
    channel, heard = f"pqlite_probe_{secrets.token_hex(8)}", asyncio.Event()

    def hear(*_: object) -> None:
        heard.set()

    try:
        async with asyncio.timeout(TEST_SECONDS), _for_now(connect) as one, _for_now(connect) as other:
            # If two clients have the same session, or one client has several, the pooler assigns sessions by
            # transaction. Most poolers assign the session that was used last, others rotate.
            mine = await _backend(one)
            if mine == await _backend(other):
                return Pooling.TRANSACTION, True
            async with other.transaction():
                await other.execute("select 1")
                if any([await _backend(one) != mine for _ in range(ASKED)]):
                    return Pooling.TRANSACTION, True
            # In transaction mode no notification arrives. This is tested last, because the LISTEN would then stay set
            # in a session of another client.
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
        await _close(conn)


async def _backend(conn: asyncpg.Connection[Any]) -> int:
    async with conn.transaction():  # both messages of an unnamed statement must reach the same session
        statement = await conn.prepare("select pg_catalog.pg_backend_pid()", name="")
        return int(await statement.fetchval())


async def _close(conn: asyncpg.Connection[Any]) -> None:
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        async with asyncio.timeout(GOODBYE_SECONDS):
            await conn.close()
    conn.terminate()
