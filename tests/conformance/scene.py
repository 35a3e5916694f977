"""What the tests do to a store behind its back: let time pass, make a worker look steady."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, Protocol

from pqlite import PgJobStore
from pqlite.testing.memory import MemoryJobStore
from tests.store.workers import RegisteredWorker

JOB_TIMES = ("run_after", "created_at", "updated_at", "locked_at", "finished_at", "cancel_requested_at")
WORKER_TIMES = ("started_at", "renewed_at", "steady_since", "lease_until", "dead_at")


class RolledBack(Exception):
    """Ends a transaction that was never to be committed."""


class Scene(Protocol):
    async def pass_time(self, by: timedelta) -> None:
        """Make everything older."""

    async def make_steady(self, worker: RegisteredWorker) -> None:
        """Make it as if the worker had renewed without a gap for a minute, just now as well: it may judge others."""

    async def take_lock(self, worker: RegisteredWorker, key: int) -> None:
        """Take an advisory lock in the session of the worker's connection."""


class MemoryScene:
    def __init__(self, store: MemoryJobStore) -> None:
        self._store = store

    async def pass_time(self, by: timedelta) -> None:
        self._store.clock.advance(by)

    async def make_steady(self, worker: RegisteredWorker) -> None:
        row = self._store._table.workers[worker.id]
        await worker.engine.link.connect(5.0)
        await worker.engine.renew(worker.id, timedelta(seconds=20), row.lock_key, deadline=5.0)
        row.steady_since -= timedelta(minutes=1)

    async def take_lock(self, worker: RegisteredWorker, key: int) -> None:
        assert (await worker.engine.link.fetch("", key, deadline=5.0))[0][0]


class PgScene:
    def __init__(self, store: PgJobStore) -> None:
        self._store = store

    async def pass_time(self, by: timedelta) -> None:
        async with self._store.connection() as conn:
            for table, columns in (("jobs", JOB_TIMES), ("workers", WORKER_TIMES)):
                changes = ", ".join(f"{column} = {column} - $1::interval" for column in columns)
                await conn.execute(f"update pqlite.{table} set {changes}", by)

    async def make_steady(self, worker: RegisteredWorker) -> None:
        await worker.engine.link.connect(5.0)
        async with self._store.connection() as conn:
            await conn.execute(
                "update pqlite.workers set steady_since = clock_timestamp() - interval '1 minute', "
                "renewed_at = clock_timestamp(), lease_until = clock_timestamp() + interval '20 s' where id = $1",
                worker.id,
            )

    async def take_lock(self, worker: RegisteredWorker, key: int) -> None:
        assert (await worker.engine.link.fetch("select pg_try_advisory_lock($1)", key, deadline=5.0))[0][0]


@asynccontextmanager
async def locked(store: Any, job_id: int) -> AsyncIterator[None]:
    """Let a transaction that is rolled back in the end hold a job's row."""
    with suppress(RolledBack):
        async with store.transaction() as tx:
            await store.cancel(job_id, conn=tx)
            yield
            raise RolledBack


async def make_suspect(register: Any, job_type: str = "t") -> None:
    """Let a worker die that holds all due jobs of a type."""
    victim = await register()
    assert await victim.claim(types=[job_type])
    assert not await victim.engine.unregister(victim.id)
    assert await victim.engine.reap("nobody")
