"""Runs a producer and a worker for some time, and samples them regularly."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from pqlite.bench.children import Child
from pqlite.bench.figures import percentile
from pqlite.bench.run import Run
from pqlite.bench.tally import Tallies, clock


@dataclass(frozen=True, slots=True)
class Look:
    """A sample: `seconds` after the first start, jobs started, processor seconds, MiB, milliseconds waited."""

    seconds: float
    started: int
    cpu: float
    server_cpu: float | None
    rss: float
    latencies: Sequence[float]


async def flow(
    run: Run, name: str, producing: str, seconds: float, *, every: float = 1.0, timed: bool = False, **spec: Any
) -> tuple[list[Look], dict[str, Any]]:
    """Let a producer with the role `producing` and a worker go for a time; return the looks, and its last words."""
    tallies = run.tallies()
    async with AsyncExitStack() as stack:
        [worker] = await stack.enter_async_context(run.workers(name, tallies, timed=timed))
        producer = await stack.enter_async_context(run.child(producing, name, tally=tallies.path, **spec))
        await producer.answer()
        await worker.ask("go")
        producer.tell("go")
        looks = await _watched(run, tallies, worker, producer, seconds, every)
        said = await producer.ask("stop")
        await worker.ask("stop")
        return looks, said


async def _watched(
    run: Run, tallies: Tallies, worker: Child, producer: Child, seconds: float, every: float
) -> list[Look]:
    await run.started(tallies, 1, [worker, producer])
    looks = [await _look(run, tallies, worker)]
    while (now := looks[-1].seconds) < seconds:
        await asyncio.sleep(min(every * len(looks), seconds) - now)
        for process in (worker, producer):
            await process.check()
        looks.append(await _look(run, tallies, worker))
    return looks


async def _look(run: Run, tallies: Tallies, worker: Child) -> Look:
    seconds, cpu = (clock() - tallies.first) / 1e9, run.server.cpu()
    said = await worker.ask("look")
    latencies = [latency / 1000 for latency in said["latencies"]]
    return Look(seconds, said["count"], said["cpu"], cpu, said["rss"], latencies)


def buckets(looks: Sequence[Look], size: float) -> list[tuple[float, float]]:
    """Return jobs per second in buckets of so many seconds, each with the time of its end."""
    found: list[tuple[float, float]] = []
    begin = looks[0]
    for look in looks[1:]:
        # A sample may come a little early or late.
        if look.seconds - begin.seconds > 0.9 * size:
            found.append((look.seconds, (look.started - begin.started) / (look.seconds - begin.seconds)))
            begin = look
    return found


def waited(looks: Sequence[Look], share: float) -> float | None:
    """Return a percentile of the milliseconds that jobs waited, over several looks."""
    return percentile([latency for look in looks for latency in look.latencies], share)
