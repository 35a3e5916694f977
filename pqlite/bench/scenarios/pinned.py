"""The same while an open transaction prevents vacuum from removing anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import asyncpg

from pqlite.bench.contenders import FLOOR, PQLITE
from pqlite.bench.figures import Case, Metric, Sample
from pqlite.bench.flow import buckets, flow, waited
from pqlite.bench.options import Options
from pqlite.bench.run import Run
from pqlite.bench.scenarios import Scenario
from pqlite.bench.scenarios.sustained import BUCKET, METRICS, rate_values, saturated

MINUTE = 60.0
LOOK_EVERY = 1.0
OFFERED_METRICS = (
    Metric("last", "p99 ms\nlast", "ms", 1),
    Metric("first", "p99 ms\nfirst", "ms", 1),
    Metric("delivered", "% deli-\nvered", "%", 1),
    Metric("cpu", "worker\nus/job", "us/job", 1),
    Metric("server_cpu", "server\nus/job", "us/job", 1),
)
NOTES = (
    "An idle REPEATABLE READ transaction that has read the table holds the horizon. p99: from just before a job's "
    "enqueue to its start, in the first and in the last minute (the first and the last quarter of a shorter run)."
)


def cases(options: Options) -> Sequence[Case]:
    """Return a case for a saturated worker, and one for a given rate."""
    seconds, rate = options.seconds_or(60, 5), options.rate or 5_000
    repeat = options.repeat_or(1)
    busy, given = f"saturated, {seconds:g} s", f"{rate:,} jobs/s offered, {seconds:g} s"
    return [
        Case("pinned", busy, METRICS, (PQLITE, FLOOR), partial(_saturated, seconds=seconds), repeat),
        Case("pinned", given, OFFERED_METRICS, (PQLITE, FLOOR), partial(_offered, seconds=seconds, rate=rate), repeat),
    ]


async def _saturated(run: Run, name: str, *, seconds: float) -> Sample:
    await run.prepare(name)
    async with _pin(run, name):
        return await saturated(run, name, seconds)


async def _offered(run: Run, name: str, *, seconds: float, rate: int) -> Sample:
    await run.prepare(name)
    async with _pin(run, name):
        every = min(LOOK_EVERY, seconds / 8)
        looks, _ = await flow(run, name, "roles.enqueuer:rate", seconds, every=every, timed=True, rate=rate)
    window = min(MINUTE, seconds / 4)
    early = [look for look in looks if look.seconds <= window]
    late = [look for look in looks if look.seconds > looks[-1].seconds - window]
    values = rate_values(looks)
    delivered = min((values["rate"] or 0.0) / rate, 1.0)
    worst = [(look.seconds, found) for look in looks if (found := waited([look], 0.99)) is not None]
    return Sample(
        values | {"first": waited(early, 0.99), "last": waited(late, 0.99), "delivered": 100 * delivered},
        {"jobs/s": buckets(looks, min(BUCKET, seconds / 4)), "p99 ms": worst},
    )


@asynccontextmanager
async def _pin(run: Run, name: str) -> AsyncIterator[None]:
    conn = await asyncpg.connect(run.dsn, server_settings={"application_name": "pqlite bench pin"})
    try:
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            await conn.fetch(f"select from {run.contenders[name].schema}.jobs limit 1")
            yield
    finally:
        await conn.close(timeout=5)


SCENARIO = Scenario("pinned", "the same, while a transaction keeps vacuum from its work", cases, NOTES)
