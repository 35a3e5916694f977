"""Jobs that are enqueued faster than they are run, to see whether the rate holds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pqlite.bench.figures import Case, Metric, Sample, per
from pqlite.bench.flow import Look, buckets, flow
from pqlite.bench.options import Options
from pqlite.bench.run import Run
from pqlite.bench.scenarios import Scenario

BUCKET = 5.0
METRICS = (
    Metric("rate", "jobs/s", "jobs/s"),
    Metric("first", "first\n5 s", "jobs/s"),
    Metric("last", "last\n5 s", "jobs/s"),
    Metric("held", "last/\nfirst", "", 2),
    Metric("cpu", "worker\nus/job", "us/job", 1),
    Metric("server_cpu", "server\nus/job", "us/job", 1),
)
NOTES = (
    "A producer keeps 3,000 to 4,000 jobs waiting; the server's time includes its share. (Shorter runs: the first and "
    "the last quarter, not 5 s.)"
)


def cases(options: Options) -> Sequence[Case]:
    """Return the one case."""
    seconds = options.seconds_or(60, 5)
    measure = partial(_measure, seconds=seconds)
    return [Case("sustained", f"{seconds:g} s", METRICS, options.contenders, measure, options.repeat_or(1))]


async def _measure(run: Run, name: str, *, seconds: float) -> Sample:
    await run.prepare(name)
    return await saturated(run, name, seconds)


async def saturated(run: Run, name: str, seconds: float) -> Sample:
    """Keep a worker busy for a time."""
    size = min(BUCKET, seconds / 4)
    looks, _ = await flow(run, name, "roles.enqueuer:backlog", seconds, every=size / 5)
    rates = buckets(looks, size)
    return Sample(rate_values(looks) | held(rates), {"jobs/s": rates})


def rate_values(looks: Sequence[Look]) -> dict[str, float | None]:
    """Return the mean rate, and processor time per job."""
    first, last = looks[0], looks[-1]
    jobs = last.started - first.started
    server = None if first.server_cpu is None or last.server_cpu is None else last.server_cpu - first.server_cpu
    return {
        "rate": per(jobs, last.seconds - first.seconds),
        "cpu": per(last.cpu - first.cpu, jobs / 1e6),
        "server_cpu": per(server, jobs / 1e6),
    }


def held(rates: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    """Return the first and the last bucket's rate, and what is left of the first."""
    first, last = (rates[0][1], rates[-1][1]) if rates else (0.0, 0.0)
    return {"first": first, "last": last, "held": per(last, first)}


SCENARIO = Scenario("sustained", "a worker that is never idle, for a minute", cases, NOTES)
