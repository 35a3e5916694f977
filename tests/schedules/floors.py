"""What schedules cost: `python -m tests.schedules.floors`, on an embedded PostgreSQL."""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from datetime import UTC, datetime, timedelta

from pqlite import JobContext, PgJobStore, Schedule, Worker
from pqlite.embedded import EmbeddedPostgres
from pqlite.events import Event, ScheduleFired
from pqlite.schedules import next_ticks, timing
from tests.schedules.reference import ZONES, expression_by_chance


def ticks() -> None:
    """Print how long computing one tick takes."""
    rng = random.Random(3)
    seconds = []
    for number in range(2000):
        expression = expression_by_chance(rng)
        when = timing(expression.text, None, anchor=None, timezone=ZONES[number % len(ZONES)])
        next_ticks(when, 1, datetime(2026, 1, 1, tzinfo=UTC))
        began = time.perf_counter()
        found = next_ticks(when, 10, datetime(2026, rng.randint(1, 12), 1, tzinfo=UTC))
        seconds.append((time.perf_counter() - began) / len(found))
    cut = statistics.quantiles(seconds, n=100)
    print(f"one tick: median {cut[49] * 1e6:.0f} us, p99 {cut[98] * 1e6:.0f} us, worst {max(seconds) * 1e6:.0f} us")


async def nothing(ctx: JobContext) -> None: ...


async def due_at_once(dsn: str, count: int) -> None:
    """Print how long one worker takes to fire schedules that are due in one minute."""
    fired = 0
    done = asyncio.Event()

    async def hear(event: Event) -> None:
        nonlocal fired
        fired += isinstance(event, ScheduleFired)
        if fired == count:
            done.set()

    async with PgJobStore(dsn=dsn) as store:
        async with store.connection() as conn:
            await conn.execute(
                "insert into pqlite.schedules (name, job_type, cron, timezone, handled_through) "
                "select 's' || n, 'job', '* * * * *', ($2::text[])[1 + n % 40], clock_timestamp() "
                "from generate_series(1, $1::int) n",
                count,
                list(ZONES),
            )
            await conn.execute(
                "update pqlite.schedules set handled_through = date_trunc('minute', now()) - interval '1 s', "
                "next_at = date_trunc('minute', now())"
            )
        began = time.monotonic()
        async with Worker(store=store, handlers={"other": nothing}, observers=[hear]):
            await asyncio.wait_for(done.wait(), 120)
            print(f"{count} due in one minute: {time.monotonic() - began:.1f} s, the worker's start included")
        async with store.connection() as conn:
            await conn.execute("truncate pqlite.schedules, pqlite.jobs")


async def lateness(dsn: str, seconds: int) -> None:
    """Print how late slots of one idle worker are, by the server's clock."""
    late: list[float] = []

    async def hear(event: Event) -> None:
        if isinstance(event, ScheduleFired):
            late.append(event.lateness.total_seconds())

    schedules = [Schedule(f"s{n}", "job", every=1, overlap="allow") for n in range(3)]
    async with (
        PgJobStore(dsn=dsn) as store,
        Worker(store=store, handlers={"job": nothing}, schedules=schedules, observers=[hear]),
    ):
        await asyncio.sleep(seconds)
    cut = statistics.quantiles(late[3:], n=100)
    milliseconds = [round(each * 1e3) for each in (cut[49], cut[98], max(late[3:]))]
    print(f"lateness of {len(late)} slots in ms (median, p99, worst): {milliseconds}")


async def main(options: argparse.Namespace) -> None:
    ticks()
    async with EmbeddedPostgres(port=0) as server:
        async with PgJobStore(dsn=server.dsn) as store:
            await store.migrate()
        await due_at_once(server.dsn, options.count)
        await lateness(server.dsn, options.seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=60, help="how long to watch an idle worker")
    began = datetime.now(UTC)
    asyncio.run(main(parser.parse_args()))
    print(f"took {(datetime.now(UTC) - began) // timedelta(seconds=1)} s")
