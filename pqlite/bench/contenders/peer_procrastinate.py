"""procrastinate, with twenty jobs at once and a pool of four connections, as it is fastest."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pqlite.bench.contenders.base import JOB_TYPE, Contender, Load, Payload, Producer, Work
from pqlite.bench.statements import statement

if TYPE_CHECKING:
    from pqlite.bench.contenders.base import Connection

SCHEMA = "pqlite_bench_procrastinate"
CONCURRENCY = 20
CONNECTIONS = 4
CHUNK = 1000


class Procrastinate(Contender):
    """Finished rows are kept, as it does by default, or deleted."""

    name = "procrastinate"
    schema = SCHEMA
    most_jobs = 5_000

    async def install(self, conn: Connection, dsn: str) -> None:
        """Apply its schema in the one that is first in its connections' search path."""
        async with _app(dsn) as app:
            await app.schema_manager.apply_schema_async()

    async def clear(self, conn: Connection) -> None:
        """Truncate."""
        await conn.execute(statement("procrastinate_clear"))

    async def fill(self, conn: Connection, dsn: str, load: Load) -> None:
        """Defer in bulk."""
        async with self.producer(dsn) as producer:
            await producer.enqueue_many([{"i": i, **load.payload} for i in range(load.jobs)])

    async def settled(self, conn: Connection) -> bool:
        """Look for a job to do or being done."""
        return bool(await conn.fetchval(statement("procrastinate_settled")))

    @asynccontextmanager
    async def producer(self, dsn: str, callers: int = 1, *, wakes: bool = False) -> AsyncIterator[Producer]:
        """Yield its task's verbs."""
        async with _app(dsn) as app:
            yield _Producer(app.configure_task(JOB_TYPE, queue="default"))

    async def work(self, work: Work) -> None:
        """Run its worker."""
        async with _app(work.dsn) as app:

            @app.task(name=JOB_TYPE, queue="default")  # type: ignore[untyped-decorator]  # imported when it is needed
            async def noop(**payload: int) -> None:
                work.started(payload)

            working = asyncio.ensure_future(
                app.run_worker_async(
                    concurrency=CONCURRENCY,
                    delete_jobs="never" if work.keep else "always",
                    install_signal_handlers=False,
                )
            )
            stopping = asyncio.ensure_future(work.stop.wait())
            work.ready()
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                working.cancel()
                await asyncio.wait([working])
            else:
                stopping.cancel()
                await working


class _Producer:
    def __init__(self, task: Any) -> None:
        self._task = task

    async def enqueue(self, payload: Payload, *, caller: int = 0) -> None:
        await self._task.defer_async(**payload)

    async def enqueue_many(self, payloads: Sequence[Payload]) -> None:
        for start in range(0, len(payloads), CHUNK):
            await self._task.batch_defer_async(*payloads[start : start + CHUNK])


@asynccontextmanager
async def _app(dsn: str) -> AsyncIterator[Any]:
    procrastinate = importlib.import_module("procrastinate")
    options = {"options": f"-c search_path={SCHEMA}", "application_name": "pqlite bench procrastinate"}
    connector = procrastinate.PsycopgConnector(conninfo=dsn, kwargs=options, min_size=CONNECTIONS, max_size=CONNECTIONS)
    async with procrastinate.App(connector=connector).open_async() as app:
        yield app
