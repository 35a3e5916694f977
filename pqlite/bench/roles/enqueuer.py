"""An enqueuing process: as fast as it goes, or one job now and then."""

from __future__ import annotations

import asyncio
import random

from pqlite.bench.contenders import contender
from pqlite.bench.contenders.base import Payload, Producer
from pqlite.bench.tally import Tallies, clock
from pqlite.bench.usage import usage
from pqlite.bench.wire import Spec, Wire

BULK_PAUSE = 0.002
BATCH = 1000
RATE_TICK = 0.02


async def fast(spec: Spec, wire: Wire) -> None:
    """Enqueue with a contender's producer, as `race` does."""
    async with contender(spec["contender"]).producer(spec["dsn"], spec["callers"]) as producer:
        await race(spec, wire, producer)


async def race(spec: Spec, wire: Wire, producer: Producer) -> None:
    """Enqueue `jobs` jobs: one after the other, from `callers` tasks, or in bulk; say how long it took."""
    jobs, callers = spec["jobs"], spec["callers"]
    # Connections and prepared statements, as a process that has run for a while has them.
    await asyncio.gather(*(producer.enqueue({"i": 0}, caller=caller) for caller in range(callers)))
    wire.say(loaded=True)
    await wire.expect("go")
    before, began = usage(), clock()
    if spec["bulk"]:
        await producer.enqueue_many([{"i": i} for i in range(jobs)])
    else:
        await asyncio.gather(*(_some(producer, caller, jobs // callers) for caller in range(callers)))
    seconds, after = (clock() - began) / 1e9, usage()
    wire.say(seconds=seconds, cpu=after.cpu - before.cpu, rss=after.rss)


async def _some(producer: Producer, caller: int, jobs: int) -> None:
    for i in range(jobs):
        await producer.enqueue({"i": i}, caller=caller)


async def now_and_then(spec: Spec, wire: Wire) -> None:
    """Enqueue `jobs` jobs, one each 20 to 30 ms; each carries the time from just before its enqueue."""
    async with contender(spec["contender"]).producer(spec["dsn"], wakes=True) as producer:
        wire.say(loaded=True)
        await wire.expect("go")
        for i in range(spec["jobs"]):
            await asyncio.sleep(random.uniform(0.02, 0.03))
            await producer.enqueue({"i": i, "at": clock()})
        wire.say(enqueued=spec["jobs"])


async def backlog(spec: Spec, wire: Wire) -> None:
    """Keep between 3,000 and 4,000 jobs waiting, by the count of those that started, until a stop is requested."""
    tallies = Tallies.of(spec["tally"])
    async with contender(spec["contender"]).producer(spec["dsn"]) as producer:
        wire.say(loaded=True)
        await wire.expect("go")
        stopping = asyncio.create_task(wire.expect("stop"))
        enqueued = 0
        while not stopping.done():
            if enqueued - tallies.total > 3 * BATCH:
                await asyncio.sleep(BULK_PAUSE)
                continue
            await producer.enqueue_many(_stamped(BATCH))
            enqueued += BATCH
        wire.say(enqueued=enqueued)


async def rate(spec: Spec, wire: Wire) -> None:
    """Enqueue `rate` jobs a second, in bulk fifty times a second, until a stop is requested. Delays are made up for."""
    async with contender(spec["contender"]).producer(spec["dsn"]) as producer:
        wire.say(loaded=True)
        await wire.expect("go")
        stopping = asyncio.create_task(wire.expect("stop"))
        began, enqueued = clock(), 0
        while not stopping.done():
            due = int((clock() - began) / 1e9 * spec["rate"]) - enqueued
            if due > 0:
                await producer.enqueue_many(_stamped(due))
                enqueued += due
            await asyncio.sleep(RATE_TICK)
        wire.say(enqueued=enqueued, offered=int((clock() - began) / 1e9 * spec["rate"]))


def _stamped(jobs: int) -> list[Payload]:
    now = clock()
    return [{"i": i, "at": now} for i in range(jobs)]
