"""How the connections begin and end that the store makes: a worker's own, and its pool's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import asyncpg

from pqlite.errors import StoreTimeout
from pqlite.store.deadlines import abandon
from pqlite.store.route import Pooling, Route, setting
from pqlite.uninterrupted import others_cancellation_as, uninterrupted

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any] | asyncpg.pool.PoolConnectionProxy[Any]

OWN = {
    # Defaults of a role or a database under which pqlite's statements would not work.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "array_nulls": "on",
}
SESSION = OWN | {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    # Lets the server notice within 25 s that this host has vanished.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
HARMLESS = OWN | {"session_replication_role": "origin"}  # other roles do not fire the trigger that wakes workers
TIMEOUTS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")
_ALL_TYPES = "select " + ", ".join(
    f"${n}::{name}[]"
    for n, name in enumerate(("text", "int", "bigint", "timestamptz", "interval", "double precision", "boolean"), 1)
)
_UNLIKE = "select from pg_catalog.pg_settings s where " + " or ".join(
    f"s.name = '{name}' and s.reset_val <> '{value}'" for name, value in OWN.items()
)
REST_SECONDS = 2.0
RESET_SECONDS = 5.0
IDLE_SECONDS = 5.0
SHORT_MS = 10_000
"""A shorter timeout may cancel a statement of pqlite."""


async def dedicated(route: Route, purpose: str) -> asyncpg.Connection[Any]:
    """Open a connection for one part of a worker, with settings that override those of the role.

    Behind a pooler in transaction mode nothing is set, because it would be set for other clients as well; settings of
    the role that do harm are logged instead.

    Raises:
        OSError, asyncpg.PostgresError: the connection cannot be opened.
        ConfigurationError: the dsn cannot be used.
    """
    label = f"pqlite {purpose}"
    return await _connection(route, label, {"application_name": label} | SESSION)


async def for_pool(route: Route) -> asyncpg.Connection[Any]:
    """Open a connection for the store's own pool, where the timeouts of the role apply. Raises the same as
    `dedicated`.
    """
    conn = await _connection(route, "pqlite", OWN)
    try:
        # By the simple protocol, which prepares nothing, so that it works behind every pooler.
        if route.pooling is not Pooling.TRANSACTION and await conn.execute(_UNLIKE) != "SELECT 0":
            route.unlike.add(conn)
    except BaseException:
        conn.terminate()
        raise
    return conn


async def _connection(route: Route, label: str, settings: Mapping[str, str]) -> asyncpg.Connection[Any]:
    conn = await route.connection(label, settings)
    try:
        if route.pooling is Pooling.TRANSACTION:
            await _learn_types(conn)
            await _report(conn, route)
    except BaseException:
        conn.terminate()
        raise
    return conn


async def ask_about(route: Route, session: int, silence: float) -> None:
    """Ask on a new connection whether a session still works on its statement. If it has been idle for `silence` and 5
    more seconds, its answer was lost.

    Raises:
        ConnectionError: the session has ended or is idle.
        OSError, asyncpg.PostgresError, asyncpg.InterfaceError: the database does not answer.
    """
    conn = await route.connection("pqlite", OWN)
    try:
        # By the simple protocol, which prepares nothing; the values in it are numbers.
        found = await conn.execute(
            f"select from pg_catalog.pg_stat_activity a where a.pid = {int(session)} and (a.state not like 'idle%' "
            f"or a.state_change > pg_catalog.clock_timestamp() - interval '{silence + IDLE_SECONDS:f} s')"
        )
    finally:
        conn.terminate()
    if found == "SELECT 0" and route.pooling is Pooling.NONE:
        raise ConnectionError("the server has ended the session, or its answer was lost")


async def between_users(route: Route, conn: asyncpg.Connection[Any]) -> None:
    """Reset a connection of the store's own pool.

    Not behind a pooler in transaction mode, where pqlite sets nothing that would have to be reset.
    """
    if route.pooling is not Pooling.TRANSACTION:
        reset = conn.get_reset_query()  # to the defaults of the role and the database
        await conn.execute(f"{reset}; {setting(OWN)}" if conn in route.unlike else reset)


@asynccontextmanager
async def acquired(pool: asyncpg.Pool[Any], timeout: float) -> AsyncIterator[Connection]:
    """Yield a connection of the pool and return it to the pool afterwards; quickly also after a cancellation.

    Raises:
        StoreTimeout: the pool had no free connection within `timeout` seconds.
        ConnectionError: other code cancelled what the pool was waiting for.
    """
    lending = pool.acquire(timeout=timeout)
    with others_cancellation_as(ConnectionError, "What the pool waited for was cancelled."):
        try:
            conn = await lending.__aenter__()
        except TimeoutError as error:
            raise StoreTimeout(
                f"The pool had no free connection within {timeout:g} s; nothing was sent to the database. "
                + (str(error) or "All were in use, or no new one could be made."),
                may_have_happened=False,
            ) from error
    try:
        yield conn
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError):
            await uninterrupted(_come_to_rest(conn))
        await _give_back(pool, lending, conn, error)
        raise
    await _give_back(pool, lending, conn)


async def _give_back(
    pool: asyncpg.Pool[Any],
    lending: AbstractAsyncContextManager[Connection],
    conn: Any,
    error: BaseException | None = None,
) -> None:
    """Return a connection to the pool, which resets it. If that fails or takes more than 5 seconds, close it: the
    caller's statements have been answered, so this is no error for the caller.
    """
    if not hasattr(pool, "release"):  # one that lends a connection for a block (pqlite.testing.bound)
        await lending.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)
        return
    try:
        await pool.release(conn, timeout=RESET_SECONDS)
    except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError) as why:
        logger.debug("A connection could not be reset (%r); it is closed.", why)
        abandon(conn)


async def _come_to_rest(conn: Connection) -> None:
    """Wait until the server has confirmed that a statement was cancelled; close the connection if that takes more than
    2 seconds. The pool would wait much longer.
    """
    with suppress(Exception):  # it is closed, or in a failed transaction
        try:
            async with asyncio.timeout(REST_SECONDS):
                await conn.execute("")
        except TimeoutError:
            conn.terminate()


@asynccontextmanager
async def leaving_standbys(pool: asyncpg.Pool[Any]) -> AsyncIterator[None]:
    """Replace the pool's connections if the block finds that the server is read-only: a standby, or a former primary.
    New connections may reach the new primary.
    """
    try:
        yield
    except asyncpg.ReadOnlySQLTransactionError:
        await pool.expire_connections()
        raise


async def _learn_types(conn: asyncpg.Connection[Any]) -> None:
    """Let asyncpg look up the types that pqlite's statements need. It changes the session's `jit` setting for that,
    which behind a pooler could stay set for another client; in a transaction that is rolled back it cannot.
    """
    transaction = conn.transaction()
    await transaction.start()
    await conn.prepare(_ALL_TYPES, name="")
    await transaction.rollback()


async def _report(conn: asyncpg.Connection[Any], route: Route) -> None:
    """Log once which settings could make pqlite's statements fail and cannot be changed behind a pooler."""
    if route.reported:
        return
    route.reported = True
    rows = await conn.fetch(
        "select name, setting, pg_catalog.current_setting(name) from pg_catalog.pg_settings "
        "where name = any ($1) order by name",
        [*HARMLESS, *TIMEOUTS],
    )
    found = [
        f"{name} = {shown}"
        for name, value, shown in rows
        if value != HARMLESS.get(name, value) or (name in TIMEOUTS and 0 < int(value) < SHORT_MS)
    ]
    if found:
        logger.warning(
            "Settings of the role or the database hold behind the pooler, where pqlite may not change them, and its "
            "statements may fail because of them: %s. Change them with ALTER ROLE ... SET.",
            ", ".join(found),
        )
