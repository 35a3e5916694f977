"""A server for a test session, and a new migrated database (20 ms) or schema (30 ms) for each test that needs one."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from pqlite import schema
from pqlite.embedded import EmbeddedPostgres
from pqlite.errors import ConfigurationError


class Databases:
    """Copies of a migrated database, made and dropped by one connection. Everything in one event loop.

    Args:
        dsn: a server whose user may create databases, or schemas (that of PQLITE_TEST_DSN); None: an embedded one,
            which lives until `close`.
    """

    def __init__(self, dsn: str | None = None) -> None:
        self._given = dsn
        self._stack = AsyncExitStack()
        # Not only the process id: in containers it is always the same, and a server may have leftovers of a killed one.
        self._session = f"{os.getpid()}_{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)
        self._templates: dict[str, str] = {}
        self._admin: asyncpg.Connection[Any]
        self.server_dsn: str

    async def open(self) -> None:
        """Find or start the server.

        Raises:
            EmbeddedError: there is none to start; the message says what to install.
            ConfigurationError: the given one cannot be used.
        """
        if self._given is None:
            settings = {"max_connections": "200"}
            embedded = EmbeddedPostgres(fsync=False, settings=settings, temp_dir=fast_directory())
            self.server_dsn = (await self._stack.enter_async_context(embedded)).dsn
        else:
            self.server_dsn = self._given
        try:
            self._admin = await asyncpg.connect(self.server_dsn)
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if self._given is None:
                raise
            raise ConfigurationError(f"The server of PQLITE_TEST_DSN cannot be used: {error!r}") from error
        self._stack.push_async_callback(self._admin.close)

    async def close(self) -> None:
        """Drop the remaining databases, and stop the server if it was started here."""
        try:
            for template in self._templates.values():
                await self.drop(template)
        finally:
            await self._stack.aclose()

    async def create(self, sql: str) -> str:
        """Create a database, migrated and with `sql` run in it; return its name. The first for each `sql` takes
        longer.
        """
        template = self._templates.get(sql) or await self._make_template(sql)
        name = f"pqlite_test_{self._session}_{next(self._numbers)}"
        # Copying files takes half as long as logging them, for databases as small as these.
        strategy = " strategy file_copy" if self._admin.get_server_version().major >= 15 else ""
        await self._admin.execute(f'create database "{name}" template "{template}"{strategy}')
        return name

    async def _make_template(self, sql: str) -> str:
        name = f"pqlite_template_{self._session}_{len(self._templates)}"
        await self._admin.execute(f'create database "{name}"')
        self._templates[sql] = name
        conn = await asyncpg.connect(self.dsn_of(name))
        try:
            await schema.migrate(conn, schema=schema.DEFAULT)
            if sql.strip():
                await conn.execute(sql)
        except BaseException:
            del self._templates[sql]
            await conn.close()
            await self.drop(name)
            raise
        await conn.close()
        return name

    async def drop(self, name: str) -> None:
        """Drop a database, also if there are connections to it."""
        await self._admin.execute(f'drop database if exists "{name}" with (force)')

    async def create_schema(self) -> str:
        """Create a migrated schema in the server's own database; return its name."""
        name = f"pqlite_test_{self._session}_{next(self._numbers)}"
        try:
            await schema.migrate(self._admin, schema=name)
        except BaseException:
            await self.drop_schema(name)
            raise
        return name

    async def drop_schema(self, name: str) -> None:
        """Drop a schema with everything in it."""
        await self._admin.execute(f'drop schema if exists "{name}" cascade')

    def dsn_of(self, name: str) -> str:
        """Return the server's address with a database in it."""
        parts = urlsplit(self.server_dsn)
        # Not geturl(), which leaves the slashes out where there is no host, as for a server behind a socket.
        return f"{parts.scheme}://{parts.netloc}/{name}" + (f"?{parts.query}" if parts.query else "")


def fast_directory() -> Path | None:
    """Return a directory in memory for the server's files if there is enough: a new database then takes 10 ms, not
    200.
    """
    memory = Path("/dev/shm")  # noqa: S108 - a private directory is made in it
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 << 30:
        return memory
    return None
