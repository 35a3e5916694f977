"""The cost of idle workers, alone and beside a busy one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from pqlite.bench.children import Child
from pqlite.bench.contenders import FLOOR, PQLITE
from pqlite.bench.contenders.base import Load
from pqlite.bench.figures import Case, Metric, Sample
from pqlite.bench.options import Options
from pqlite.bench.run import Run, progress
from pqlite.bench.scenarios import Scenario, drain
from pqlite.bench.scenarios.latency import GO_IDLE_SECONDS
from pqlite.bench.statements import statement

IDLERS, FEW_IDLERS = 100, 20
CONNECTIONS_EACH = 4
SPARE_CONNECTIONS = 20
WARM_UP = 20.0
"""After this time an idle worker sleeps for its maximum time."""
METRICS = (
    Metric("rss", "MiB", "MiB", 1),
    Metric("transactions", "trans-\nactions/s", "1/s", 1),
    Metric("cpu", "worker\nCPU %", "%", 2),
    Metric("server_cpu", "server\nCPU %", "%", 2),
)
NOTES = (
    "transactions/s: all of this database (pg_stat_database.xact_commit), once the worker sleeps as long as it ever "
    "does. The idle workers serve other queues, all in one process, with four connections each."
)


def cases(options: Options) -> Sequence[Case]:
    """Return a case for one idle worker, and two for a busy one: alone, and beside many idle ones."""
    seconds = min(options.seconds_or(30, 5), 60)
    load = Load(options.jobs_or(100_000, 20_000))
    both, repeat = (PQLITE, FLOOR), options.repeat_or(1)
    idlers = FEW_IDLERS if options.quick else IDLERS
    beside = partial(_drained_beside, load=load, idlers=idlers)
    return [
        Case("idle", f"one idle worker, {seconds:g} s", METRICS, both, partial(_idle, seconds=seconds), repeat),
        Case("idle", "drain, alone", drain.METRICS, both, partial(drain.measure, load=load), repeat),
        Case("idle", f"drain, {idlers} idle workers beside it", drain.METRICS, both, beside, repeat),
    ]


async def _idle(run: Run, name: str, *, seconds: float) -> Sample:
    await run.prepare(name)
    async with run.workers(name, run.tallies(), wakes=True) as [worker]:
        await worker.ask("go")
        await asyncio.sleep(max(GO_IDLE_SECONDS, min(WARM_UP, seconds / 2)))
        before, server, transactions = await worker.ask("look"), run.server.cpu(), await _transactions(run)
        await asyncio.sleep(seconds)
        after, server_after, transactions_after = await worker.ask("look"), run.server.cpu(), await _transactions(run)
        await worker.ask("stop")
    used = None if server is None or server_after is None else 100 * (server_after - server) / seconds
    return Sample(
        {
            "rss": after["rss"],
            "transactions": max(transactions_after - transactions - 1, 0) / seconds,
            "cpu": 100 * (after["used"] - before["used"]) / seconds,
            "server_cpu": used,
        }
    )


async def _drained_beside(run: Run, name: str, *, load: Load, idlers: int) -> Sample:
    await run.prepare(PQLITE)
    async with _idlers(run, idlers):
        return await drain.measure(run, name, load=load)


@asynccontextmanager
async def _idlers(run: Run, wanted: int) -> AsyncIterator[Child]:
    free = int(await run.conn.fetchval(statement("free_connections"))) - SPARE_CONNECTIONS
    count = max(min(wanted, free // CONNECTIONS_EACH), 0)
    if count < wanted:
        progress(f"The server has connections for {count} idle workers only.")
    async with run.child("roles.idlers:play", PQLITE, workers=count) as idlers:
        await idlers.answer()
        yield idlers
        await idlers.ask("stop")


async def _transactions(run: Run) -> int:
    return int(await run.conn.fetchval(statement("transactions")))


SCENARIO = Scenario("idle", "an idle worker; a busy one beside many idle ones", cases, NOTES)
