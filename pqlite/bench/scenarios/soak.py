"""Hours of ordinary work at a moderate rate, to see whether memory or anything else grows."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from functools import partial

from pqlite.bench.children import Child
from pqlite.bench.contenders import PQLITE
from pqlite.bench.figures import Case, Metric, Sample, percentile, slope
from pqlite.bench.options import Options
from pqlite.bench.run import Run, progress
from pqlite.bench.scenarios import Scenario
from pqlite.bench.statements import statement
from pqlite.bench.tally import Tallies, clock

RATE = 200
LOOK_EVERY = 5.0
LINE_EVERY = 60.0
STEADY_MIB = 1.0
"""Memory that grows by less per hour is steady."""
TOO_SHORT = 1800.0
METRICS = (
    Metric("rate", "jobs/s", "jobs/s"),
    Metric("p50", "p50\nms", "ms", 1),
    Metric("p99", "p99\nms", "ms", 1),
    Metric("rss", "MiB", "MiB", 1),
    Metric("slope", "MiB/h", "MiB/h", 2),
    Metric("table_mib", "table\nMiB", "MiB", 1),
    Metric("index_mib", "indexes\nMiB", "MiB", 1),
)
NOTES = (
    "Short jobs, some in threads, some failing at first or for good, some delayed, keyed or completed in a "
    "transaction; finished rows are kept for 10 minutes. p50, p99: from an enqueue to the start of a job that was due."
)
_SERIES = {
    "rate": "jobs/s",
    "p50": "p50 ms",
    "p99": "p99 ms",
    "rss": "worker MiB",
    "producer_rss": "producer MiB",
    "connections": "connections",
    "table_mib": "table MiB",
    "index_mib": "indexes MiB",
    "dead_rows": "dead rows",
}


@dataclass(frozen=True, slots=True)
class State:
    """How things stood `seconds` after the beginning; rate and latencies are of the time since the state before."""

    seconds: float
    started: int
    rate: float
    p50: float | None
    p99: float | None
    rss: float
    producer_rss: float
    connections: float
    table_mib: float
    index_mib: float
    dead_rows: float


def cases(options: Options) -> Sequence[Case]:
    """Return the one case."""
    seconds, rate = (options.hours or 1.0) * 3600, options.rate or RATE
    measure = partial(_measure, seconds=seconds, rate=rate)
    return [Case("soak", f"{seconds / 3600:g} h at {rate:,} jobs/s", METRICS, (PQLITE,), measure, 1)]


async def _measure(run: Run, name: str, *, seconds: float, rate: int) -> Sample:
    await run.prepare(name)
    tallies, states = run.tallies(), list[State]()
    async with AsyncExitStack() as stack:
        spec = {"tally": tallies.path, "slot": 0, "rate": rate}
        worker = await stack.enter_async_context(run.child("roles.mixed:work", name, **spec))
        producer = await stack.enter_async_context(run.child("roles.mixed:produce", name, **spec))
        await worker.answer()
        await producer.answer()
        await worker.ask("go")
        producer.tell("go")
        try:
            await _watched(run, tallies, worker, producer, seconds, states)
        except asyncio.CancelledError:
            if len(states) < 2:
                raise
            # It was interrupted: report what was measured so far.
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
        enqueued = (await producer.ask("stop"))["enqueued"]
        ended = (await worker.ask("stop"))["ended"]
    return _sample(states, enqueued, ended, seconds)


async def _watched(
    run: Run, tallies: Tallies, worker: Child, producer: Child, seconds: float, states: list[State]
) -> None:
    await run.started(tallies, 1, [worker, producer])
    every, line_every = min(LOOK_EVERY, seconds / 8), min(LINE_EVERY, seconds / 2)
    began, looks, lines = clock(), 0, 1
    while (now := (clock() - began) / 1e9) < seconds:
        looks += 1
        await asyncio.sleep(max(min(every * looks, seconds) - now, 0.0))
        state = await _look(run, worker, producer, began, states[-1] if states else None)
        states.append(state)
        if state.seconds >= lines * line_every:
            progress(_line(state))
            lines += 1


async def _look(run: Run, worker: Child, producer: Child, began: int, before: State | None) -> State:
    said, produced = await worker.ask("look"), await producer.ask("look")
    if said["trouble"]:
        progress(f"The worker is in trouble: {said['trouble']}")
    row = await run.conn.fetchrow(statement("soak"))
    assert row is not None
    seconds, latencies = (clock() - began) / 1e9, [latency / 1000 for latency in said["latencies"]]
    since, started = (before.seconds, before.started) if before else (0.0, 0)
    return State(
        seconds=seconds,
        started=said["count"],
        rate=(said["count"] - started) / (seconds - since),
        p50=percentile(latencies, 0.5),
        p99=percentile(latencies, 0.99),
        rss=said["rss"],
        producer_rss=produced["rss"],
        connections=row["connections"],
        table_mib=row["table_bytes"] / (1 << 20),
        index_mib=row["index_bytes"] / (1 << 20),
        dead_rows=row["dead_rows"] or 0,
    )


def _line(state: State) -> str:
    p99 = "-" if state.p99 is None else f"{state.p99:.1f}"
    return (
        f"{state.seconds / 60:8.1f} min {state.rate:7.1f} jobs/s  p99 {p99:>6} ms  {state.rss:6.1f} MiB  "
        f"table {state.table_mib + state.index_mib:6.1f} MiB  {state.dead_rows:,.0f} dead"
    )


def _sample(states: Sequence[State], enqueued: int, ended: dict[str, int], asked: float) -> Sample:
    points = {key: [(state.seconds, asdict(state)[key]) for state in states] for key in _SERIES}
    series = {_SERIES[key]: [(x, y) for x, y in found if y is not None] for key, found in points.items()}
    later = states[len(states) // 4 :]  # by then everything has been loaded once
    growth = slope([(state.seconds / 3600, state.rss) for state in later])
    last = states[-1]
    values = {
        "rate": last.started / last.seconds,
        "p50": _median(series["p50 ms"]),
        "p99": _median(series["p99 ms"]),
        "rss": last.rss,
        "slope": growth,
        "table_mib": last.table_mib,
        "index_mib": last.index_mib,
    }
    counts = ", ".join(f"{count:,} {name}" for name, count in sorted(ended.items()))
    remarks = [f"{enqueued:,} enqueued in {last.seconds:,.0f} s of {asked:,.0f}; attempts: {counts}."]
    return Sample(values, series, [*remarks, *_verdict(states, growth)])


def _verdict(states: Sequence[State], growth: float | None) -> list[str]:
    quarter = max(len(states) // 4, 1)
    first, last = states[:quarter], states[-quarter:]
    said = []
    for key, what in (("rss", "worker MiB"), ("rate", "jobs/s"), ("p99", "p99 ms"), ("connections", "connections")):
        values = [[value for state in part if (value := getattr(state, key)) is not None] for part in (first, last)]
        if all(values):
            said.append(f"{what} {statistics.median(values[0]):,.1f} -> {statistics.median(values[1]):,.1f}")
    compared = f"First quarter against the last (medians): {'; '.join(said)}."
    if growth is None or states[-1].seconds < TOO_SHORT:
        return [compared, "Verdict: too short to say whether memory grows; half an hour is the least."]
    judged = "steady" if growth < STEADY_MIB else f"GROWING, by more than {STEADY_MIB:g} MiB an hour"
    return [compared, f"Verdict: memory is {judged} ({growth:+.2f} MiB an hour)."]


def _median(points: Sequence[tuple[float, float]]) -> float | None:
    return statistics.median(value for _, value in points) if points else None


SCENARIO = Scenario("soak", "hours of ordinary work; only with --hours", cases, NOTES)
