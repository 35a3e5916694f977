"""One server for the session, one database for each test that asks."""

import asyncio
import functools
import inspect
import itertools
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import asyncpg
import pytest

from pqlite import schema
from pqlite.embedded import EmbeddedPostgres
from pqlite.store.postgres import PgJobStore

_TEMPLATE = f"pqlite_template_{os.getpid()}"
_numbers = itertools.count(1)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Cancel a coroutine that hangs, which shows where, and leave as long for cleaning up. pytest-timeout can only
    interrupt the loop; that is the whole session's, so the next fixture would wait in it until the test ends by itself.
    And let one fail that ends by a CancelledError: anyio's runner would let it pass.
    """
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return
    marker = pyfuncitem.get_closest_marker("timeout")
    seconds = float(marker.args[0] if marker else pyfuncitem.config.getini("timeout"))

    @functools.wraps(test)
    async def cancelled_in_time(**arguments: object) -> None:
        try:
            async with asyncio.timeout(seconds / 2):
                await test(**arguments)
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            raise AssertionError("the test ended by a cancellation that was not its own") from error

    pyfuncitem.obj = cancelled_in_time


class Server(Protocol):
    @property
    def dsn(self) -> str: ...


class GivenServer:
    """The server of PQLITE_TEST_DSN; its user must be allowed to create databases."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
async def server() -> AsyncIterator[Server]:
    if given := os.environ.get("PQLITE_TEST_DSN"):
        yield GivenServer(given)
        return
    settings = {"max_connections": "200", "max_prepared_transactions": "5"}
    embedded = EmbeddedPostgres(fsync=False, port=0, settings=settings, temp_dir=fast_directory())
    async with embedded:
        yield embedded


@pytest.fixture(scope="session")
async def template(server: Server) -> AsyncIterator[str]:
    """Name a migrated database that others are copied from; nobody connects to it."""
    await _execute(server.dsn, f'create database "{_TEMPLATE}"')
    connection = await asyncpg.connect(dsn_of(server, _TEMPLATE))
    try:
        await schema.migrate(connection, schema="pqlite")
    finally:
        await connection.close()
    yield _TEMPLATE
    await _execute(server.dsn, f'drop database if exists "{_TEMPLATE}" with (force)')


@pytest.fixture
async def dsn(server: Server, template: str) -> AsyncIterator[str]:
    """The address of a fresh, migrated database."""
    async for address in _fresh_database(server, template):
        yield address


@pytest.fixture
async def empty_dsn(server: Server) -> AsyncIterator[str]:
    """The address of a fresh database without pqlite's schema."""
    async for address in _fresh_database(server, "template1"):
        yield address


@pytest.fixture
async def conn(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[PgJobStore]:
    job_store = PgJobStore(dsn=dsn)
    await job_store.start()
    try:
        yield job_store
    finally:
        await job_store.close()


def fast_directory() -> Path | None:
    """Return memory for a server's files, where there is plenty: a new database then takes 10 ms, not 200."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 << 30:
        return memory
    return None


def dsn_of(server: Server, database: str) -> str:
    """Return the server's address with another database in it."""
    return urlsplit(server.dsn)._replace(path=f"/{database}").geturl()


async def _fresh_database(server: Server, template: str) -> AsyncIterator[str]:
    name = f"pqlite_test_{os.getpid()}_{next(_numbers)}"
    await _execute(server.dsn, f'create database "{name}" template "{template}"', strategy="file_copy")
    try:
        yield dsn_of(server, name)
    finally:
        await _execute(server.dsn, f'drop database if exists "{name}" with (force)')


async def _execute(dsn: str, statement: str, strategy: str | None = None) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        # Copying files takes half as long as logging them, for databases as small as ours.
        if strategy is not None and connection.get_server_version().major >= 15:
            statement += f" strategy {strategy}"
        await connection.execute(statement)
    finally:
        await connection.close()
