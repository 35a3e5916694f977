"""Where the database is, and the connections that a worker holds for itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import asyncpg

from pqlite.errors import ConfigurationError

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any] | asyncpg.pool.PoolConnectionProxy[Any]

SESSION = {
    # What a role or a database may have set, and a worker cannot live with.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    # Lets the server notice within 25 s that this host has vanished.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


def address(dsn: str) -> str:
    """Return the DSN if it can be one. It is never quoted: it may hold a password, in the wrong place above all.

    Raises:
        ConfigurationError: it cannot.
    """
    scheme, found, rest = dsn.partition("://")
    if not found or scheme not in ("postgresql", "postgres"):
        raise ConfigurationError("dsn must begin with postgresql:// (it is not shown here: it may hold a password)")
    hosts = rest.split("/")[0].split("?")[0].rpartition("@")[2]
    for host in hosts.split(","):
        port = "" if host.endswith("]") else host.rpartition(":")[2] if ":" in host else ""
        if port and not port.isdecimal():
            raise ConfigurationError(
                "dsn names a port that is no number; is the @host missing, or an @, : or / in the password not "
                "percent-encoded? (the dsn is not shown here: it may hold a password)"
            )
    return dsn


async def dedicated(
    purpose: str, dsn: str | None, connect: Callable[[], Awaitable[asyncpg.Connection[Any]]] | None
) -> asyncpg.Connection[Any]:
    """Return a new connection for one of a worker's parts, whatever the role's settings are.

    Raises:
        OSError, asyncpg.PostgresError: it cannot be made.
    """
    label = {"application_name": f"pqlite {purpose}"}
    settings = label | SESSION
    conn = await (asyncpg.connect(dsn, server_settings=label) if connect is None else connect())
    try:
        await conn.execute(
            "select set_config(name, value, false) from unnest($1::text[], $2::text[]) s (name, value)",
            list(settings),
            list(settings.values()),
        )
    except BaseException:
        conn.terminate()
        raise
    return conn
