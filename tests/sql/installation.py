"""An installation with its four roles, and a login for each of them."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import asyncpg

from pqlite import schema
from tests.sql.psql import run_psql

ROLES = ("migrator", "worker", "producer", "viewer")
PASSWORD = "between-tests-only"


@dataclass(frozen=True)
class Installation:
    """Where pqlite is installed; `dsn` is its administrator's."""

    dsn: str
    schema: str

    def dsn_of(self, role: str) -> str:
        """Return the address for a login that is a member of this role, and of nothing else."""
        address = urlsplit(self.dsn)
        host = address.netloc.rpartition("@")[2]
        return address._replace(netloc=f"{self.schema}_as_{role}:{PASSWORD}@{host}").geturl()

    def sql(self, text: str) -> str:
        """Return SQL that was written for the schema `pqlite` and its roles."""
        return schema.render(text, self.schema)

    @contextlib.asynccontextmanager
    async def connected(self, role: str | None = None) -> AsyncIterator[asyncpg.Connection]:
        """Yield a session of a role, or of the administrator."""
        connection = await asyncpg.connect(self.dsn if role is None else self.dsn_of(role))
        try:
            yield connection
        finally:
            await connection.close(timeout=5)


@contextlib.asynccontextmanager
async def installed(dsn: str, name: str) -> AsyncIterator[Installation]:
    """Migrate, run roles.sql, make the logins; afterwards take all of it away, since roles belong to the server."""
    installation = Installation(dsn, name)
    logins = [f"{name}_as_{role}" for role in ROLES]
    async with installation.connected() as conn:
        await schema.migrate(conn, name)
        try:
            await run_psql(dsn, schema.roles(name))
            for role, login in zip(ROLES, logins, strict=True):
                await conn.execute(f"create role {login} login password '{PASSWORD}' in role {name}_{role}")
            yield installation
        finally:
            roles = ", ".join([*logins, *(f"{name}_{role}" for role in ROLES)])
            await conn.execute(f"drop owned by {roles} cascade")
            await conn.execute(f"drop role {roles}")
