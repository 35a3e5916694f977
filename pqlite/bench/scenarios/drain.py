"""How fast jobs that wait are worked off, by one process and by two, with finished rows kept and not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pqlite.bench.contenders.base import Load, job_types
from pqlite.bench.figures import Case, Metric, Sample, per
from pqlite.bench.options import Options
from pqlite.bench.run import Run
from pqlite.bench.scenarios import Scenario
from pqlite.bench.tally import clock

METRICS = (
    Metric("rate", "started\njobs/s", "jobs/s"),
    Metric("settled", "settled\njobs/s", "jobs/s"),
    Metric("cpu", "worker\nus/job", "us/job", 1),
    Metric("server_cpu", "server\nus/job", "us/job", 1),
    Metric("rss", "worker\nMiB", "MiB"),
)
NOTES = (
    "started: jobs / (first to last handler start); settled: until the database shows none that waits or runs. floor: "
    "claims 250 behind a watermark, a task per job, settles on a second connection while it claims the next."
)


def cases(options: Options) -> Sequence[Case]:
    """Return a case for each number of processes, with finished rows kept and not."""
    load = Load(options.jobs_or(100_000, 20_000))
    return [
        Case(
            "drain",
            f"{processes} process{'es' if processes > 1 else ''}, rows {'kept' if keep else 'not kept'}",
            METRICS,
            options.contenders,
            partial(measure, load=load, processes=processes, keep=keep),
            options.repeat_or(3),
        )
        for keep in (True, False)
        for processes in (1, 2)
    ]


async def measure(run: Run, name: str, *, load: Load, processes: int = 1, keep: bool = True, **spec: Any) -> Sample:
    """Let jobs wait, start workers, and measure how long they take; `spec` has further arguments."""
    queue, tallies = run.contenders[name], run.tallies()
    load = replace(load, jobs=min(load.jobs, queue.most_jobs))
    await run.prepare(name, load)
    spec |= {"keep": keep, "job_types": job_types(load)}
    async with run.workers(name, tallies, processes, **spec) as workers:
        for worker in workers:
            worker.tell("go")
        await run.started(tallies, 1, workers)
        before = run.server.cpu()
        for worker in workers:
            await worker.answer()
        await run.started(tallies, load.jobs, workers)
        await run.settled(queue)
        end = clock()
        looks = [await worker.ask("look") for worker in workers]
        after = run.server.cpu()
        for worker in workers:
            await worker.ask("stop")
    server = None if before is None or after is None else after - before
    return Sample(
        {
            "rate": load.jobs / (tallies.last - tallies.first) * 1e9,
            "settled": load.jobs / (end - tallies.first) * 1e9,
            "cpu": sum(look["cpu"] for look in looks) / load.jobs * 1e6,
            "server_cpu": per(server, load.jobs / 1e6),
            "rss": max(look["rss"] for look in looks),
        }
    )


SCENARIO = Scenario("drain", "work off jobs that wait: 1 and 2 processes, rows kept or not", cases, NOTES)
