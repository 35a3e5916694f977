"""What the store's tests share: more sessions, and registered workers."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta

import asyncpg
import pytest

from pqlite.store import PgJobStore
from tests.store.workers import RegisteredWorker

Connect = Callable[[], Awaitable[asyncpg.Connection]]
Register = Callable[..., Awaitable[RegisteredWorker]]


@pytest.fixture
async def connect(dsn: str) -> AsyncIterator[Connect]:
    """Return a function that opens one more session."""
    async with AsyncExitStack() as stack:

        async def another() -> asyncpg.Connection:
            connection = await asyncpg.connect(dsn)
            stack.push_async_callback(connection.close, timeout=5)
            return connection

        yield another


@pytest.fixture
async def register(store: PgJobStore) -> AsyncIterator[Register]:
    """Return a function that registers one more worker."""
    numbers = itertools.count(1)
    async with AsyncExitStack() as stack:

        async def another(
            *, lock_key: int | None = None, lease: timedelta = timedelta(seconds=20), **info: object
        ) -> RegisteredWorker:
            engine = store.engine("test")
            stack.push_async_callback(engine.link.close)
            worker_id = f"worker-{next(numbers)}"
            await engine.register(worker_id, "worker", lock_key, lease, info)
            return RegisteredWorker(engine, worker_id)

        yield another


@pytest.fixture
async def worker(register: Register) -> RegisteredWorker:
    return await register()
