"""What the tests do to a store behind its back: let time pass, make a worker look steady."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, Protocol

from pqlite import Job, PgJobStore
from pqlite.outcome import Outcome, Verb, Verdict
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


class Holder(Protocol):
    """Claims jobs and settles them."""

    async def claim(self, limit: int = 100) -> list[Job]: ...

    async def claim_one(self) -> Job: ...

    async def claim_due(self) -> Job | None:
        """Claim the job that comes first: suspects, then by priority and due time."""

    async def settle(self, job: Job, verb: Verb, **fields: Any) -> Verdict | None: ...


class MemoryHolder:
    """Does so as `drain` does in memory."""

    def __init__(self, store: MemoryJobStore) -> None:
        self._store = store

    async def claim(self, limit: int = 100) -> list[Job]:
        types = {job.job_type for job in await self._store.jobs()}
        claimed: list[Job] = []
        while (
            len(claimed) < limit and (job := await self._store.claim_due("holder", None, list(types), {})) is not None
        ):
            claimed.append(job)
        return claimed

    async def claim_one(self) -> Job:
        [job] = await self.claim(1)
        return job

    async def claim_due(self) -> Job | None:
        claimed = await self.claim(1)
        return claimed[0] if claimed else None

    async def settle(self, job: Job, verb: Verb, **fields: Any) -> Verdict | None:
        answer = await self._store.settle(Outcome(job, verb, **fields))
        return None if answer.verdict is Verdict.WRITTEN else answer.verdict


class MemoryScene:
    def __init__(self, store: MemoryJobStore) -> None:
        self._store = store

    async def pass_time(self, by: timedelta) -> None:
        self._store.clock.advance(by)

    async def make_steady(self, worker: RegisteredWorker) -> None:
        raise NotImplementedError("in memory there are no workers")

    async def take_lock(self, worker: RegisteredWorker, key: int) -> None:
        raise NotImplementedError("in memory there are no workers")


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
