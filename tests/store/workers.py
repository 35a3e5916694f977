"""A worker without a process: what it says to the database, and ways to make it look old, steady or stuck."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from pqlite.job import Job
from pqlite.outcome import Outcome, Verb, Verdict
from pqlite.store.engine import Engine, Lane, Mark, Unknown
from pqlite.worker.lanes import place_of

BEGINNING = Mark(datetime(1, 1, 1, tzinfo=UTC), 0)


@dataclass
class RegisteredWorker:
    engine: Engine
    id: str

    async def claim(
        self,
        limit: int = 100,
        *,
        suspect: bool = False,
        queues: Sequence[str] | None = None,
        types: Sequence[str] | None = None,
    ) -> list[Job]:
        """Claim from every lane there is, from its beginning."""
        heads = await self.engine.lanes(queues, types)
        return await self.claim_from([head.lane for head in heads], limit, suspect=suspect, queues=queues, types=types)

    async def claim_from(
        self,
        lanes: Sequence[Lane],
        limit: int = 100,
        *,
        after: Mark = BEGINNING,
        suspect: bool = False,
        queues: Sequence[str] | None = None,
        types: Sequence[str] | None = None,
    ) -> list[Job]:
        claimed, _ = await self.engine.claim(
            self.id, limit, suspect=suspect, queues=queues, types=types, lanes=[(lane, after) for lane in lanes]
        )
        return [job for _, jobs in claimed for job in jobs]

    async def disown(self, known: Sequence[int] = (), since: timedelta = timedelta(seconds=90)) -> list[int]:
        """Give back what was claimed in that time, until now, and is not known."""
        now = await self.engine.arm(timedelta(days=-1))
        return await self.engine.disown(Unknown(self.id, known, since, now))

    async def claim_one(self) -> Job:
        [job] = await self.claim(1, suspect=True)
        return job

    async def claim_due(self) -> Job | None:
        """Claim the job that comes first: suspects, then by priority and due time."""
        lanes = [place_of(head) for head in await self.engine.lanes(None, None) if head.due_in <= 0]
        claimed, _ = await self.engine.claim(self.id, 1, suspect=True, queues=None, types=None, lanes=lanes)
        return claimed[0].jobs[0] if claimed else None

    async def settle(self, job: Job, verb: Verb, **fields: Any) -> Verdict | None:
        """Settle one claim; return why it was not written, None if it was."""
        [verdict] = [a.verdict for a in await self.engine.settle(self.id, [Outcome(job, verb, **fields)])] or [None]
        return None if verdict is Verdict.WRITTEN else verdict


async def fetch_job(conn: asyncpg.Connection, job_id: int) -> asyncpg.Record:
    row = await conn.fetchrow("select * from pqlite.jobs where id = $1", job_id)
    assert row is not None
    return row


async def silence(conn: asyncpg.Connection, worker: RegisteredWorker, seconds: float) -> None:
    """Make it as if the worker had renewed for the last time so long ago."""
    await conn.execute(
        "update pqlite.workers set renewed_at = renewed_at - $2::interval, lease_until = lease_until - $2::interval"
        " where id = $1",
        worker.id,
        timedelta(seconds=seconds),
    )


async def make_steady(conn: asyncpg.Connection, worker: RegisteredWorker) -> None:
    """Make it as if the worker had renewed without a gap for a minute: it may judge others."""
    await conn.execute(
        "update pqlite.workers set steady_since = clock_timestamp() - interval '1 minute', "
        "renewed_at = clock_timestamp() where id = $1",
        worker.id,
    )


async def declare_dead(conn: asyncpg.Connection, worker: RegisteredWorker) -> None:
    await conn.execute("update pqlite.workers set dead_at = clock_timestamp() where id = $1", worker.id)


class TellingAsyncio:
    """The asyncio module, to a module under test, with short sleeps that tell when the first has begun."""

    def __init__(self) -> None:
        self.slept = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.slept.set()
        await asyncio.sleep(min(seconds, 0.001))

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


async def until_blocked(conn: asyncpg.Connection, sessions: int = 1) -> None:
    """Wait until so many sessions of this database wait for a lock."""
    async with asyncio.timeout(10):
        while sessions > await conn.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.002)
