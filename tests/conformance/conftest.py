"""Every test here names one promise: of JobStore, tested on both stores, or of the worker's engine, on PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TypeAlias

import pytest

from pqlite import PgJobStore
from pqlite.testing.memory import MemoryJobStore
from tests.conformance.scene import Holder, MemoryHolder, MemoryScene, PgScene, Scene
from tests.store.conftest import Register
from tests.store.workers import RegisteredWorker

Store: TypeAlias = MemoryJobStore | PgJobStore


NEED_POSTGRES = {"postgres_only", "register", "worker", "judge", "run"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on both stores, unless a fixture says that it needs more than a JobStore."""
    if "make_store" in metafunc.fixturenames:
        only = NEED_POSTGRES.intersection(metafunc.fixturenames)
        metafunc.parametrize("make_store", ["postgres"] if only else ["memory", "postgres"], indirect=True)


@pytest.fixture
def postgres_only() -> None:
    """Asked for by tests of what a store in memory does not have, such as an engine for workers."""


@pytest.fixture
def make_store(request: pytest.FixtureRequest) -> Callable[..., Store]:
    """Return a function that makes stores of one kind; those of PostgreSQL share a database of the test's own."""
    if request.param == "memory":
        return MemoryJobStore
    dsn = request.getfixturevalue("dsn")
    return lambda **options: PgJobStore(dsn=dsn, **options)


@pytest.fixture
def fresh_store(make_store: Callable[..., Store]) -> Store:
    """A store that was never started."""
    return make_store()


@pytest.fixture
async def store(fresh_store: Store) -> AsyncIterator[Store]:
    async with fresh_store:
        yield fresh_store


@pytest.fixture
def scene(store: Store) -> Scene:
    return MemoryScene(store) if isinstance(store, MemoryJobStore) else PgScene(store)


@pytest.fixture
async def register(store: PgJobStore) -> AsyncIterator[Register]:
    """Return a function that registers one more worker, with a connection of its own."""
    numbers = itertools.count(1)
    async with AsyncExitStack() as stack:

        async def another(*, lock_key: int | None = None, lease: timedelta = timedelta(seconds=20)) -> RegisteredWorker:
            engine = store.engine("test")
            stack.push_async_callback(engine.link.close)
            worker_id = f"worker-{next(numbers)}"
            await engine.register(worker_id, "worker", lock_key, lease, {})
            return RegisteredWorker(engine, worker_id)

        yield another


@pytest.fixture
async def holder(store: Store) -> AsyncIterator[Holder]:
    """Return what claims jobs and settles them, in the way of either store."""
    if isinstance(store, MemoryJobStore):
        yield MemoryHolder(store)
        return
    engine = store.engine("test")
    await engine.register("holder", "worker", None, timedelta(seconds=20), {})
    yield RegisteredWorker(engine, "holder")
    await engine.link.close()


@pytest.fixture
async def worker(register: Register) -> RegisteredWorker:
    return await register()
