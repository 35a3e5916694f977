"""How long a job waits for an idle worker: from just before the enqueue, in one process, to its start in another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from pqlite.bench.figures import Case, Metric, Sample, percentile
from pqlite.bench.options import Options
from pqlite.bench.run import Run
from pqlite.bench.scenarios import Scenario

GO_IDLE_SECONDS = 1.0
METRICS = (
    Metric("p50", "p50\nms", "ms", 2),
    Metric("p95", "p95\nms", "ms", 2),
    Metric("p99", "p99\nms", "ms", 2),
    Metric("max", "max\nms", "ms", 2),
)
NOTES = (
    "A job each 20 to 30 ms. Less is better, also the ratio. floor: INSERT and pg_notify in one statement, LISTEN, "
    "claim one, start a task."
)


def cases(options: Options) -> Sequence[Case]:
    """Return the one case."""
    measure = partial(_measure, jobs=min(options.jobs_or(300, 100), 300))
    return [Case("latency", "an idle worker", METRICS, options.contenders, measure, options.repeat_or(3))]


async def _measure(run: Run, name: str, *, jobs: int) -> Sample:
    await run.prepare(name)
    tallies = run.tallies()
    async with run.workers(name, tallies, timed=True, wakes=True) as [worker]:
        async with run.child("roles.enqueuer:now_and_then", name, jobs=jobs) as enqueuer:
            await worker.ask("go")
            await enqueuer.answer()
            await asyncio.sleep(GO_IDLE_SECONDS)
            await enqueuer.ask("go")
            await run.started(tallies, jobs, [worker])
            latencies = [latency / 1000 for latency in (await worker.ask("stop"))["latencies"]]
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return Sample({key: percentile(latencies, share) for key, share in shares.items()})


SCENARIO = Scenario("latency", "from an enqueue to the job's start in an idle worker", cases, NOTES)
