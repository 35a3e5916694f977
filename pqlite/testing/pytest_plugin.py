"""Fixtures for pytest, available when pqlite is installed. Nothing is imported or started before a test uses one.

All of them are plain fixtures: they work in synchronous tests, under anyio's plugin and under pytest-asyncio, whatever
event loop a test runs in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from pqlite import PgJobStore
    from pqlite.testing.databases import Databases
    from pqlite.testing.memory import MemoryJobStore


@pytest.fixture(scope="session")
def _pqlite_portal() -> Iterator[BlockingPortal]:
    """Run an event loop in a thread, for objects that live longer than a test's event loop."""
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal("asyncio") as portal:
        yield portal


@pytest.fixture(scope="session")
def _pqlite_databases(_pqlite_portal: BlockingPortal) -> Iterator[Databases]:
    from pqlite.testing.databases import Databases

    databases = Databases(os.environ.get("PQLITE_TEST_DSN") or None)
    try:
        _pqlite_portal.call(databases.open)
        yield databases
    finally:
        _pqlite_portal.call(databases.close)


@pytest.fixture(scope="session")
def pqlite_server(_pqlite_databases: Databases) -> str:
    """Return the DSN of the session's PostgreSQL: that of PQLITE_TEST_DSN, whose user must be allowed to create
    databases (or schemas, if your tests ask for `pqlite_schema` only), or else an embedded server (the extra
    `embedded`).
    """
    return _pqlite_databases.server_dsn


@pytest.fixture(scope="session")
def pqlite_sql() -> str:
    """Return SQL that is run in every test's database, such as your tables. Override it, in conftest.py or in a
    module; here it is empty.
    """
    return ""


@pytest.fixture
def pqlite_dsn(_pqlite_databases: Databases, _pqlite_portal: BlockingPortal, pqlite_sql: str) -> Iterator[str]:
    """Return the DSN of a database of the test's own: migrated, with `pqlite_sql`, and dropped after the test."""
    name = _pqlite_portal.call(_pqlite_databases.create, pqlite_sql)
    try:
        yield _pqlite_databases.dsn_of(name)
    finally:
        _pqlite_portal.call(_pqlite_databases.drop, name)


@pytest.fixture
def pqlite_schema(_pqlite_databases: Databases, _pqlite_portal: BlockingPortal) -> Iterator[str]:
    """Return the name of a schema of the test's own in the database of `pqlite_server`: migrated, and dropped after the
    test. For users who may not create databases, or whose tables are in that one already:
    `PgJobStore(dsn=pqlite_server, schema=pqlite_schema)`.
    """
    name = _pqlite_portal.call(_pqlite_databases.create_schema)
    try:
        yield name
    finally:
        _pqlite_portal.call(_pqlite_databases.drop_schema, name)


@pytest.fixture
def pqlite_store(pqlite_dsn: str) -> PgJobStore:
    """Return a PgJobStore on a database of the test's own. It is not started, because its connections belong to an
    event loop: `async with pqlite_store:` does that, or a worker's lifespan.
    """
    from pqlite import PgJobStore

    return PgJobStore(dsn=pqlite_dsn)


@pytest.fixture
def pqlite_memory_store() -> MemoryJobStore:
    """Return a MemoryJobStore. It is started, and works in every event loop and thread."""
    from pqlite.testing.memory import MemoryJobStore

    store = MemoryJobStore()
    with suppress(StopIteration):
        store.start().send(None)  # it awaits nothing, and so needs no event loop
    return store
