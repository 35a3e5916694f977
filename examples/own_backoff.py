"""Waiting, your way: before a retry, with nothing to do, while the database is away.

    export DATABASE_URL=postgresql://localhost/app
    python examples/own_backoff.py

A policy is a plain object with one method: subclass it, and give it to the worker.
"""

import asyncio
import os
import random
import sys

from pqlite import BackoffPolicy, IdlePollPolicy, JobContext, LoopErrorPolicy, PgJobStore, Worker

DSN = os.environ.get("DATABASE_URL") or sys.exit("Set DATABASE_URL, such as postgresql://localhost/app")


class Doubling(BackoffPolicy):
    """0.1 s, 0.2 s, 0.4 s, up to a minute; a little less by chance, so that what failed together spreads out."""

    def retry_delay(self, attempts: int) -> float:
        """Return the seconds between attempt number `attempts` and the next."""
        delay = min(0.1 * 2.0 ** (attempts - 1), 60.0)
        print(f"attempt {attempts} failed, the next comes in about {delay:g} s")
        return delay * random.uniform(0.8, 1.0)


class Steady(LoopErrorPolicy):
    """While the database is away, try it every half second."""

    def next_sleep(self, consecutive_errors: int) -> float:
        """Return the seconds until the next try."""
        return 0.5


async def call_partner(ctx: JobContext) -> str:
    """Succeed at the third attempt."""
    if ctx.attempt < 3:
        raise ConnectionError("the partner is busy")
    print(f"attempt {ctx.attempt} succeeded")
    worker.begin_shutdown()
    return "ok"


store = PgJobStore(dsn=DSN)
worker = Worker(
    store=store,
    handlers={"call_partner": call_partner},
    backoff=Doubling(),
    loop_error_policy=Steady(),
    # How often to look while nothing is due: only a fallback, because an enqueue wakes idle workers.
    idle_policy=IdlePollPolicy(base_seconds=2.0, max_seconds=30.0),
)


async def main() -> None:
    """Enqueue one job, and run until it succeeds."""
    async with store:
        await store.migrate()
        await store.enqueue("call_partner", max_attempts=10)
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main())
