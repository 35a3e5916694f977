"""A soak's two processes: jobs as an app has them, and the worker that runs them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from datetime import timedelta
from typing import Any

from pqlite.bench.contenders.ours import SCHEMA
from pqlite.bench.roles.worker import Count
from pqlite.bench.tally import Tally, clock
from pqlite.bench.usage import usage
from pqlite.bench.wire import Spec, Wire
from pqlite.errors import Fail, RetryAfter
from pqlite.events import Event, JobEnded, JobSettled
from pqlite.handlers import JobContext
from pqlite.store.postgres import PgJobStore
from pqlite.worker import Worker

TICK = 0.02
KEYS = 50
RETENTION = timedelta(minutes=10)
# Weights. Of 100 jobs: 60 short ones, 10 that fail at first, and so on.
MIX = {"short": 60, "flaky": 10, "delayed": 10, "keyed": 9, "threaded": 5, "transactional": 5, "hopeless": 1}


async def produce(spec: Spec, wire: Wire) -> None:
    """Enqueue `rate` jobs a second, one call each, until a stop is requested."""
    async with PgJobStore(dsn=spec["dsn"], schema=SCHEMA) as store:
        wire.say(loaded=True)
        await wire.expect("go")
        stopping = asyncio.create_task(_obey(wire))
        began, enqueued = clock(), 0
        while not stopping.done():
            due = int((clock() - began) / 1e9 * spec["rate"]) - enqueued
            await asyncio.gather(*(_enqueue(store, kind) for kind in random.choices([*MIX], [*MIX.values()], k=due)))
            enqueued += due
            await asyncio.sleep(TICK)
        stopping.result()
        wire.say(enqueued=enqueued)


async def _obey(wire: Wire) -> None:
    while await wire.command() == "look":
        wire.say(rss=usage().rss)


async def _enqueue(store: PgJobStore, kind: str) -> None:
    options: dict[str, Any] = {}
    if kind == "delayed":
        options["run_after"] = timedelta(seconds=random.uniform(1, 30))
    elif kind == "keyed":
        options["dedupe_key"] = f"soak:{random.randrange(KEYS)}"
    await store.enqueue(kind, {"at": clock()}, **options)


async def work(spec: Spec, wire: Wire) -> None:
    """Run a worker; "look" asks how it is, "stop" ends it."""
    count = Count(Tally(spec["tally"], spec["slot"]), timed=True)
    ended: Counter[str] = Counter()

    def observe(event: Event) -> None:
        if isinstance(event, JobEnded):
            ended[event.outcome.verb] += 1
        elif isinstance(event, JobSettled):
            ended["settled"] += 1

    store = PgJobStore(dsn=spec["dsn"], schema=SCHEMA)
    handlers = {kind: _handler(kind, count) for kind in MIX if kind != "threaded"} | {"threaded": _threaded(count)}
    worker = Worker(store, handlers, retain_done=RETENTION, retain_failed=RETENTION, observers=[observe])
    logging.getLogger("pqlite").addFilter(lambda record: not record.getMessage().startswith("Job "))  # they are to fail
    wire.say(loaded=True)
    await wire.expect("go")
    async with worker:
        wire.say(ready=True)
        while (command := await wire.command()) == "look":
            wire.say(**count.look(), ended=dict(ended), trouble=worker.trouble())
        if command != "stop":
            raise ValueError(f"unknown command {command!r}")
    wire.say(**count.look(), ended=dict(ended), trouble=None)


def _handler(kind: str, count: Count) -> Any:
    async def handle(ctx: JobContext) -> dict[str, int] | None:
        # The waiting time of a job that is due later is not counted.
        if kind == "delayed" or ctx.attempt > 1:
            count.started_untimed(ctx.job.payload)
        else:
            count.started(ctx.job.payload)
        await asyncio.sleep(random.uniform(0.001, 0.02))
        if kind == "flaky" and ctx.attempt == 1:
            raise RetryAfter(random.uniform(0.1, 5.0), "the first attempt always fails")
        if kind == "hopeless":
            raise Fail("it always does")
        if kind == "transactional":
            async with ctx.complete(result={"rows": 1}) as conn:
                await conn.execute("select 1")
            return None
        return {"attempt": ctx.attempt}

    return handle


def _threaded(count: Count) -> Any:
    def handle(ctx: JobContext) -> None:
        count.started(ctx.job.payload)
        time.sleep(random.uniform(0.001, 0.02))

    return handle
