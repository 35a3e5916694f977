"""pgqueuer, as it is fastest: batches of 250 on one connection, without aggregating its log, which stalls it."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
from pydantic_core import from_json, to_json

from pqlite.bench.contenders.base import JOB_TYPE, Contender, Load, Payload, Producer, Work
from pqlite.bench.statements import statement

if TYPE_CHECKING:
    from pqlite.bench.contenders.base import Connection

SCHEMA = "pqlite_bench_pgqueuer"
BATCH = 250
CHUNK = 5000


class Pgqueuer(Contender):
    """It deletes a job that is done and writes a line to its log: there is nothing to keep or not to keep."""

    name = "pgqueuer"
    schema = SCHEMA
    most_jobs = 100_000

    async def install(self, conn: Connection, dsn: str) -> None:
        """Install it into the schema that is first in its connections' search path."""
        async with _queries(dsn) as queries:
            await queries.install()

    async def clear(self, conn: Connection) -> None:
        """Truncate."""
        await conn.execute(statement("pgqueuer_clear"))

    async def fill(self, conn: Connection, dsn: str, load: Load) -> None:
        """Enqueue in bulk."""
        async with self.producer(dsn) as producer:
            await producer.enqueue_many([{"i": i, **load.payload} for i in range(load.jobs)])

    async def settled(self, conn: Connection) -> bool:
        """Look for a job."""
        return bool(await conn.fetchval(statement("pgqueuer_settled")))

    @asynccontextmanager
    async def producer(self, dsn: str, callers: int = 1, *, wakes: bool = False) -> AsyncIterator[Producer]:
        """Yield its Queries on one connection."""
        async with _queries(dsn) as queries:
            yield _Producer(queries)

    async def work(self, work: Work) -> None:
        """Run its QueueManager."""
        async with _queries(work.dsn) as queries:
            manager = importlib.import_module("pgqueuer.core.qm").QueueManager(queries)

            @manager.entrypoint(JOB_TYPE)  # type: ignore[untyped-decorator]  # pgqueuer is imported when it is needed
            async def noop(job: Any) -> None:
                work.started(from_json(job.payload))

            stopping = asyncio.ensure_future(_stop(work, manager))
            work.ready()
            try:
                await manager.run(batch_size=BATCH, log_aggregation_interval=timedelta(0))
            finally:
                stopping.cancel()


async def _stop(work: Work, manager: Any) -> None:
    await work.stop.wait()
    manager.shutdown.set()


class _Producer:
    def __init__(self, queries: Any) -> None:
        self._queries = queries

    async def enqueue(self, payload: Payload, *, caller: int = 0) -> None:
        await self._queries.enqueue(JOB_TYPE, to_json(payload))

    async def enqueue_many(self, payloads: Sequence[Payload]) -> None:
        for start in range(0, len(payloads), CHUNK):
            chunk = [to_json(payload) for payload in payloads[start : start + CHUNK]]
            await self._queries.enqueue([JOB_TYPE] * len(chunk), chunk, [0] * len(chunk))


@asynccontextmanager
async def _queries(dsn: str) -> AsyncIterator[Any]:
    settings = {"search_path": SCHEMA, "application_name": "pqlite bench pgqueuer"}
    conn = await asyncpg.connect(dsn, server_settings=settings)
    try:
        yield importlib.import_module("pgqueuer.queries").Queries.from_asyncpg_connection(conn)
    finally:
        await conn.close(timeout=5)
