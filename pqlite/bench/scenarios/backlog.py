"""Whether a claim costs more when more jobs wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from pqlite.bench.contenders import FLOOR, PQLITE
from pqlite.bench.contenders.base import Load, job_types
from pqlite.bench.figures import Case, Metric, Sample, per
from pqlite.bench.options import Options
from pqlite.bench.run import Run
from pqlite.bench.scenarios import Scenario
from pqlite.bench.statements import statement
from pqlite.bench.tally import clock

SHALLOW = 50_000
STATISTICS_SECONDS = 0.5
METRICS = (
    Metric("rate", "jobs/s", "jobs/s"),
    Metric("buffers", "buffers\nper job", "buffers", 1),
    Metric("cpu", "worker\nus/job", "us/job", 1),
    Metric("server_cpu", "server\nus/job", "us/job", 1),
)
NOTES = (
    "One worker process, 10 s at most (3 with --quick). buffers: pages of tables and indexes looked at, by claim and "
    "settlement together (pg_statio_user_tables)."
)


def cases(options: Options) -> Sequence[Case]:
    """Return a case for few jobs and one for many."""
    deep = options.jobs_or(1_000_000, 200_000)
    seconds = min(options.seconds_or(10, 3), 60)
    return [
        Case(
            "backlog",
            f"{jobs:,} wait",
            METRICS,
            (PQLITE, FLOOR),
            partial(measure, load=Load(jobs), seconds=seconds),
            options.repeat_or(1),
        )
        for jobs in (min(SHALLOW, deep // 2), deep)
    ]


async def measure(run: Run, name: str, *, load: Load, seconds: float) -> Sample:
    """Let jobs wait, and a worker work them off for so many seconds at most."""
    tallies = run.tallies()
    await run.prepare(name, load)
    async with run.workers(name, tallies, job_types=job_types(load)) as [worker]:
        buffers = await _buffers(run, name)
        await worker.ask("go")
        await run.started(tallies, 1, [worker])
        before = run.server.cpu()
        try:
            async with asyncio.timeout(seconds):
                await run.started(tallies, load.jobs, [worker])
        except TimeoutError:
            pass  # expected where many jobs wait
        end = tallies.last if tallies.total >= load.jobs else clock()
        look, after = await worker.ask("look"), run.server.cpu()
        started = (await worker.ask("stop"))["count"]
    await asyncio.sleep(STATISTICS_SECONDS)  # a session reports what it counted when it ends, and that takes a moment
    server = None if before is None or after is None else after - before
    return Sample(
        {
            "rate": look["count"] / (end - tallies.first) * 1e9,
            "buffers": per(await _buffers(run, name) - buffers, started),
            "cpu": look["cpu"] / look["count"] * 1e6,
            "server_cpu": per(server, look["count"] / 1e6),
        }
    )


async def _buffers(run: Run, name: str) -> int:
    return int(await run.conn.fetchval(statement("buffers"), run.contenders[name].schema))


SCENARIO = Scenario("backlog", "the same worker with few and with many jobs waiting", cases, NOTES)
