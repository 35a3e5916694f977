"""How fast jobs are enqueued: one after the other, by twenty callers at once, in bulk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from pqlite.bench.contenders import FLOOR, PQLITE, WRITES
from pqlite.bench.figures import Case, Metric, Sample, per
from pqlite.bench.options import Options
from pqlite.bench.run import Run
from pqlite.bench.scenarios import Scenario

CALLERS = 20
METRICS = (
    Metric("rate", "jobs/s", "jobs/s"),
    Metric("cpu", "client\nus/job", "us/job", 1),
    Metric("server_cpu", "server\nus/job", "us/job", 1),
    Metric("rss", "client\nMiB", "MiB"),
)
NOTES = (
    "floor, into pqlite's own table with its indexes and its trigger: bare INSERT ... RETURNING id on one connection; "
    "on 20 connections, one per caller (uncoalesced); binary COPY."
)


def cases(options: Options) -> Sequence[Case]:
    """Return one case per way to enqueue."""
    bulk = options.jobs_or(50_000, 20_000)
    ways = {
        "one after the other": (min(bulk, options.jobs_or(5_000, 1_000)), 1, False),
        f"{CALLERS} callers at once": (min(bulk, options.jobs_or(20_000, 5_000)), CALLERS, False),
        "in bulk": (bulk, 1, True),
    }
    return [
        Case(
            "enqueue",
            name,
            METRICS,
            (PQLITE, FLOOR),
            partial(measure, jobs=jobs, callers=callers, bulk=bulk),
            options.repeat_or(3),
        )
        for name, (jobs, callers, bulk) in ways.items()
    ]


async def measure(
    run: Run, name: str, *, jobs: int, callers: int, bulk: bool, role: str = "roles.enqueuer:fast", **spec: Any
) -> Sample:
    """Let a process enqueue jobs that are not run; `spec` has further arguments."""
    await run.prepare(PQLITE if name == FLOOR else name)
    queue = WRITES if name == FLOOR else name
    async with run.child(role, queue, jobs=jobs, callers=callers, bulk=bulk, **spec) as enqueuer:
        await enqueuer.answer()
        before = run.server.cpu()
        took = await enqueuer.ask("go", timeout=600)
        after = run.server.cpu()
    jobs -= jobs % callers
    server = None if before is None or after is None else after - before
    return Sample(
        {
            "rate": jobs / took["seconds"],
            "cpu": took["cpu"] / jobs * 1e6,
            "server_cpu": per(server, jobs / 1e6),
            "rss": took["rss"],
        }
    )


SCENARIO = Scenario("enqueue", "enqueue jobs: alone, 20 callers at once, in bulk", cases, NOTES)
