"""A process with many idle pqlite workers: each serves an empty queue."""

from __future__ import annotations

from contextlib import AsyncExitStack

from pqlite.bench.contenders.base import JOB_TYPE
from pqlite.bench.contenders.ours import SCHEMA
from pqlite.bench.usage import usage
from pqlite.bench.wire import Spec, Wire
from pqlite.handlers import JobContext
from pqlite.store.postgres import PgJobStore
from pqlite.worker import Worker


async def play(spec: Spec, wire: Wire) -> None:
    """Enter the workers, report it, and leave them after the command "stop"."""
    async with AsyncExitStack() as stack:
        for number in range(spec["workers"]):
            store = PgJobStore(dsn=spec["dsn"], schema=SCHEMA)
            worker = Worker(store, {JOB_TYPE: _never}, queues=[f"idle{number}"])
            await stack.enter_async_context(worker)
        wire.say(loaded=True)
        await wire.expect("stop")
    wire.say(rss=usage().rss)


async def _never(ctx: JobContext) -> None:
    raise AssertionError("a job in a queue that should have none")
