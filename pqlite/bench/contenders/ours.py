"""pqlite, through its public API and with its defaults."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pqlite import schema
from pqlite.bench.contenders.base import JOB_TYPE, Contender, Load, Payload, Producer, Work
from pqlite.bench.statements import statement
from pqlite.handlers import AnyHandler, JobContext
from pqlite.job import NewJob
from pqlite.store.postgres import PgJobStore
from pqlite.worker import Worker

if TYPE_CHECKING:
    from pqlite.bench.contenders.base import Connection

SCHEMA = "pqlite_bench"


class Pqlite(Contender):
    """The queue that this package is."""

    name = "pqlite"
    schema = SCHEMA
    most_jobs = 1 << 60

    async def install(self, conn: Connection, dsn: str) -> None:
        """Migrate."""
        await schema.migrate(conn, SCHEMA)

    async def clear(self, conn: Connection) -> None:
        """Truncate."""
        await conn.execute(statement("pqlite_clear"))

    async def fill(self, conn: Connection, dsn: str, load: Load) -> None:
        """Insert rows made by the server."""
        spread = load.jobs, load.job_types, load.priorities, load.queues
        await conn.execute(statement("pqlite_fill"), *spread, json.dumps(load.payload))

    async def settled(self, conn: Connection) -> bool:
        """Look for a READY or RUNNING job."""
        return bool(await conn.fetchval(statement("pqlite_settled")))

    @asynccontextmanager
    async def producer(self, dsn: str, callers: int = 1, *, wakes: bool = False) -> AsyncIterator[Producer]:
        """Yield a store's verbs."""
        async with PgJobStore(dsn=dsn, schema=SCHEMA) as store:
            yield _Producer(store)

    async def work(self, work: Work) -> None:
        """Run a Worker."""
        await run_worker(work)


async def run_worker(work: Work, handlers: Mapping[str, AnyHandler] | None = None, **options: Any) -> None:
    """Run `make_worker`'s until it is to stop."""
    async with make_worker(work, handlers, **options):
        work.ready()
        await work.stop.wait()


def make_worker(work: Work, handlers: Mapping[str, AnyHandler] | None = None, **options: Any) -> Worker:
    """Return the worker that is measured; everything that is not asked for is the default."""

    async def noop(ctx: JobContext) -> None:
        work.started(ctx.job.payload)

    if work.concurrency is not None:
        options["concurrency"] = work.concurrency
    if not work.keep:
        options["retain_done"] = timedelta(0)
    store = PgJobStore(dsn=work.dsn, schema=SCHEMA)
    return Worker(store=store, handlers=handlers or dict.fromkeys(work.job_types, noop), **options)


class _Producer:
    def __init__(self, store: PgJobStore) -> None:
        self._store = store

    async def enqueue(self, payload: Payload, *, caller: int = 0) -> None:
        await self._store.enqueue(JOB_TYPE, payload)

    async def enqueue_many(self, payloads: Sequence[Payload]) -> None:
        await self._store.enqueue_many([NewJob(job_type=JOB_TYPE, payload=payload) for payload in payloads])
