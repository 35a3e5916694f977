"""A worker process: runs jobs that do nothing, counts them, and says what that cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from pqlite.bench.contenders import contender
from pqlite.bench.contenders.base import JOB_TYPE, Payload, Work
from pqlite.bench.tally import Tally
from pqlite.bench.usage import Usage, usage
from pqlite.bench.wire import Spec, Wire


async def play(spec: Spec, wire: Wire) -> None:
    """Run a contender's worker, as `serve` does."""
    await serve(spec, wire, contender(spec["contender"]).work)


async def serve(spec: Spec, wire: Wire, run: Callable[[Work], Coroutine[Any, Any, None]]) -> None:
    """Be ready; "go" starts the worker, "look" asks for what it has used, "stop" ends it."""
    count = Count(Tally(spec["tally"], spec["slot"]), timed=spec.get("timed", False))
    stop = asyncio.Event()
    work = Work(
        dsn=spec["dsn"],
        started=count.started,
        ready=lambda: wire.say(ready=True),
        stop=stop,
        number=spec["slot"],
        concurrency=spec.get("concurrency"),
        keep=spec.get("keep", True),
        wakes=spec.get("wakes", False),
        job_types=spec.get("job_types", [JOB_TYPE]),
    )
    wire.say(loaded=True)
    await wire.expect("go")
    working = asyncio.create_task(run(work))
    obeying = asyncio.create_task(_obey(wire, count))
    await asyncio.wait([working, obeying], return_when=asyncio.FIRST_COMPLETED)
    if obeying.done():
        obeying.result()
    stop.set()
    await working
    wire.say(**count.look())


async def _obey(wire: Wire, count: Count) -> None:
    while (command := await wire.command()) == "look":
        wire.say(**count.look())
    if command != "stop":
        raise ValueError(f"unknown command {command!r}")


class Count:
    """Counts starts, remembers what the process had used at the first, and each job's latency if it is `timed`."""

    def __init__(self, tally: Tally, *, timed: bool) -> None:
        self._tally = tally
        self._began: Usage | None = None
        self._latencies: list[int] = []
        self.started = self.started_timed if timed else self.started_untimed

    def started_untimed(self, payload: Payload) -> None:
        """Count a start."""
        if self._began is None:
            self._began = usage()
        self._tally.add()

    def started_timed(self, payload: Payload) -> None:
        """Count a start, and remember how long the job had waited."""
        self.started_untimed(payload)
        self._latencies.append((self._tally.latest - payload["at"]) // 1000)

    def look(self) -> dict[str, object]:
        """Return how many started, processor seconds since the first and since ever, MiB, and the microseconds that
        each job since the last look had waited.
        """
        now = usage()
        cpu = 0.0 if self._began is None else now.cpu - self._began.cpu
        latencies, self._latencies = self._latencies, []
        return {"count": self._tally.count, "cpu": cpu, "used": now.cpu, "rss": now.rss, "latencies": latencies}
