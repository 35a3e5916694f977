"""One server for each process of the session, one database for each test that asks."""

import asyncio
import functools
import inspect
import itertools
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
_WORTH_SHARING = 15
"""From this number of test files on, several processes run them."""
_TOGETHER = ("faults", "bench", "deploy", "test_demo.py", "typing", "test_packaging.py")
"""Files and folders whose tests run in one process, because they share a costly fixture or would disturb each other.
The slowest comes first, so that no process ends long after the others.
"""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes run the tests: one per core, or 0 (this one alone) for a selection that takes less time
    than starting them, and for a server that is given, because roles belong to a whole server.
    """
    selected = config.option.keyword or config.getoption("lf", False)
    if os.environ.get("PQLITE_TEST_DSN") or selected or _files_named(config.args) < _WORTH_SHARING:
        return 0
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tell each group of _TOGETHER to pytest-xdist, and run the groups first: they take longest."""
    position = {item: _position(item.path) for item in items}
    for item, number in position.items():
        if number < len(_TOGETHER):
            item.add_marker(pytest.mark.xdist_group(_TOGETHER[number]))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: position[item])


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


class Databases:
    """Creates and drops databases on a server, over one connection: to open one takes as long as to create one."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: asyncpg.Connection | None = None
        self._one_statement_at_a_time = asyncio.Lock()

    @asynccontextmanager
    async def fresh(self, template: str) -> AsyncIterator[str]:
        """Lend the address of a new copy of a database."""
        name = f"pqlite_test_{os.getpid()}_{next(_numbers)}"
        await self.copy(template, name)
        try:
            yield dsn_of(self._server, name)
        finally:
            await self.drop(name)

    async def copy(self, template: str, name: str) -> None:
        async with self._connected() as connection:
            # Copying files takes half as long as logging them, for databases as small as ours.
            strategy = "strategy file_copy" if connection.get_server_version().major >= 15 else ""
            await connection.execute(f'create database "{name}" template "{template}" {strategy}')

    async def drop(self, name: str) -> None:
        async with self._connected() as connection:
            await connection.execute(f'drop database if exists "{name}" with (force)')

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close(timeout=5)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection]:
        async with self._one_statement_at_a_time:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(self._server.dsn)
            yield self._connection


@pytest.fixture(scope="session")
async def databases(server: Server) -> AsyncIterator[Databases]:
    databases = Databases(server)
    try:
        yield databases
    finally:
        await databases.close()


@pytest.fixture(scope="session")
async def template(server: Server, databases: Databases) -> AsyncIterator[str]:
    """Name a migrated database that others are copied from; nobody connects to it."""
    await databases.copy("template1", _TEMPLATE)
    connection = await asyncpg.connect(dsn_of(server, _TEMPLATE))
    try:
        await schema.migrate(connection, schema="pqlite")
    finally:
        await connection.close()
    yield _TEMPLATE
    await databases.drop(_TEMPLATE)


@pytest.fixture
async def dsn(databases: Databases, template: str) -> AsyncIterator[str]:
    """The address of a fresh, migrated database."""
    async with databases.fresh(template) as address:
        yield address


@pytest.fixture
async def empty_dsn(databases: Databases) -> AsyncIterator[str]:
    """The address of a fresh database without pqlite's schema."""
    async with databases.fresh("template1") as address:
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


def _files_named(arguments: list[str]) -> int:
    """Return how many files of tests the arguments of pytest name."""
    paths = [Path(argument) for argument in arguments]
    return sum(len(list(path.rglob("test_*.py"))) if path.is_dir() else 1 for path in paths)


def _position(path: Path) -> int:
    """Return which group of _TOGETHER a test file belongs to; its length stands for none."""
    groups = [Path(__file__).parent / name for name in _TOGETHER]
    return next((n for n, group in enumerate(groups) if path.is_relative_to(group)), len(groups))


def fast_directory() -> Path | None:
    """Return memory for a server's files, where there is plenty: a new database then takes 10 ms, not 200."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 << 30:
        return memory
    return None


def dsn_of(server: Server, database: str) -> str:
    """Return the server's address with another database in it."""
    return urlsplit(server.dsn)._replace(path=f"/{database}").geturl()
