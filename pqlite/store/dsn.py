"""Addresses of PostgreSQL: which forms are accepted, and which environment variables give one.

Messages never contain an address, because it may contain a password.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

from pqlite.errors import ConfigurationError

SHAPE = "postgresql://user:password@host:5432/database"
IN = "The address in {}"
VARIABLES = ("PQLITE_DSN", "DATABASE_URL")
_SCHEME = re.compile(r"postgres(?:ql)?(?:\+[a-z0-9_]{1,30})?")
_OTHER = re.compile(r"[a-z0-9+]{1,30}")

_REFUSED = ("channel_binding", "direct_tls")
_SSL = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_OF_DRIVERS = frozenset(
    (
        "async_fallback",
        "client_encoding",
        "command_timeout",
        "connect_timeout",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "max_cacheable_statement_size",
        "max_cached_statement_lifetime",
        "prepare_threshold",
        "prepared_statement_cache_size",
        "prepared_statement_name_func",
        "statement_cache_size",
        "timeout",
    )
)
"""Parameters about the behaviour of a driver. They are ignored: the store decides about timeouts and preparing."""


class Address(NamedTuple):
    """An address and its source. Print only the source: the address may contain a password."""

    dsn: str
    source: str


def from_environment(environ: Mapping[str, str] | None = None) -> Address | None:
    """Return the address in PQLITE_DSN, else in DATABASE_URL, else in libpq's variables if PGSERVICE, PGHOST or
    PGDATABASE is set; None if there is none.

    Raises:
        ConfigurationError: it is malformed.
    """
    environ = os.environ if environ is None else environ
    for name in VARIABLES:
        if dsn := environ.get(name):
            return Address(address(dsn, IN.format(name)), name)
    if service := environ.get("PGSERVICE"):
        # asyncpg takes the name of a service only from a DSN.
        return Address(f"postgresql://?service={quote(service, safe='')}", "PGSERVICE")
    for name in ("PGHOST", "PGDATABASE"):
        if environ.get(name):
            return Address("postgresql://", name)
    return None


def address(dsn: str, name: str = "dsn") -> str:
    """Return an address as asyncpg accepts it. SQLAlchemy's form is accepted too: the driver in `postgresql+asyncpg://`
    is left out, as are parameters about the driver, `?ssl=` becomes `?sslmode=`, and several `host=` become one.

    Raises:
        ConfigurationError: it is not an address; the message calls it `name`.
    """
    if not isinstance(dsn, str):
        raise ConfigurationError(f"{name} must be a string, such as postgresql://host/app, not {type(dsn).__name__}")
    scheme, found, rest = dsn.partition("://")
    if not found or not _SCHEME.fullmatch(scheme):
        other = f", not {scheme}://" if found and _OTHER.fullmatch(scheme) else ""
        raise ConfigurationError(f"{name} must begin with postgresql://{other}")
    before, mark, query = rest.partition("?")
    server, _, database = before.partition("/")
    halves = any("=" not in pair for pair in query.split("&") if pair)
    if "#" in rest or server.count("@") > 1 or "@" in database or halves:
        raise ConfigurationError(
            f"{name} has an @, :, /, ? or # in the wrong place: in a user's name, a password or a database's name they "
            "must be percent-encoded (the dsn is not shown here: it may hold a password); it must look like "
            f"{SHAPE}"
        )
    for host in server.rpartition("@")[2].split(","):
        port = "" if host.endswith("]") else host.rpartition(":")[2] if ":" in host else ""
        if port and not port.isdecimal():
            raise ConfigurationError(
                f"{name} has a port that is not a number; is the @host missing, or an @, : or / in the password not "
                "percent-encoded? (the dsn is not shown here: it may hold a password)"
            )
    parameters = _parameters(query, name)
    return f"{scheme.partition('+')[0]}://{before}{mark and parameters and mark}{parameters}"


def _parameters(query: str, name: str) -> str:
    """Return the query of an address with SQLAlchemy's and its drivers' parameters translated to asyncpg's."""
    kept: dict[str, str] = {}
    for key, _, value in (pair.partition("=") for pair in query.split("&") if pair):
        if key == "ssl":
            if value not in _SSL:
                raise ConfigurationError(f"{name} has an ssl= that is not one of {', '.join(_SSL)}")
            kept.setdefault("sslmode", value)
        elif key in _REFUSED and value not in ("disable", "prefer", "false"):
            raise ConfigurationError(
                f"{name} asks for {key}, which asyncpg does not support in an address; leave it out"
            )
        elif key == "host" and key in kept:
            kept[key] += f",{value}"
        elif key not in _OF_DRIVERS and key not in _REFUSED:
            kept[key] = value
    return "&".join(f"{key}={value}" for key, value in kept.items())
