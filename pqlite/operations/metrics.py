"""Metrics in Prometheus' text format: what this process has run, and what waits in the database. Needs no library."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from pqlite.events import Event, JobSettled
from pqlite.operations.verbs import Operations

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
FRESH_SECONDS = 5.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[str, ...]


class Metrics:
    """Counts the attempts of this process's workers as an observer, and reads the queue's state at a scrape.

        metrics = Metrics(Operations(store))
        worker = Worker(store=store, handlers=handlers, observers=[metrics])
        app = FastAPI(lifespan=worker.lifespan, routes=[metrics.route()])

    | metric | labels | |
    |---|---|---|
    | `pqlite_jobs_processed_total` | `queue`, `job`, `outcome` | attempts of this process, by their outcome |
    | `pqlite_job_duration_seconds` | `queue`, `job` | a histogram of how long they ran |
    | `pqlite_jobs` | `queue`, `job`, `state` | READY jobs, `due` and `later`, counted as far as `stats` does |
    | `pqlite_queue_oldest_ready_seconds` | `queue` | for how long the oldest job has been due |
    | `pqlite_running`, `pqlite_blocked`, `pqlite_suspects` | | jobs in these states |
    | `pqlite_workers` | `state` | registered workers |
    | `pqlite_up` | | 1 if the database answered, else 0; then there are no numbers of it |

    Args:
        operations: what to read the queue's state from, at most once in 5 seconds; None: only this process's attempts.
    """

    def __init__(self, operations: Operations | None = None) -> None:
        self._operations = operations
        self._lock = threading.Lock()
        self._processed: Counter[Labels] = Counter()
        self._durations: defaultdict[Labels, list[int]] = defaultdict(lambda: [0] * (len(BUCKETS) + 1))
        self._seconds: defaultdict[Labels, float] = defaultdict(float)
        self._state: list[str] = []
        self._read_at = float("-inf")

    def __call__(self, event: Event) -> None:
        """Count an event."""
        if not isinstance(event, JobSettled):
            return
        outcome = event.outcome
        labels = (outcome.job.queue, outcome.job.job_type)
        with self._lock:
            self._processed[(*labels, outcome.verb.lower())] += 1
            if outcome.duration_ms is not None:
                seconds = outcome.duration_ms / 1000
                self._durations[labels][bisect_left(BUCKETS, seconds)] += 1
                self._seconds[labels] += seconds

    def route(self, path: str = "/metrics") -> Route:
        """Return a route that answers a scrape. It has no protection of its own."""

        async def scrape(_: Request) -> PlainTextResponse:
            return PlainTextResponse(await self.text(), headers={"content-type": CONTENT_TYPE})

        return Route(path, scrape)

    async def text(self) -> str:
        """Return the metrics. A database that does not answer is told by `pqlite_up`, and raises nothing."""
        if self._operations is not None and time.monotonic() - self._read_at > FRESH_SECONDS:
            try:
                self._state = await _state(self._operations)
                self._read_at = time.monotonic()
            except Exception:  # whatever it is, this process's own numbers are still right
                self._state = list(_metric("pqlite_up", "gauge", (), {(): 0}))
        with self._lock:
            return "\n".join([*self._own(), *self._state, ""])

    def _own(self) -> Iterator[str]:
        yield from _metric("pqlite_jobs_processed_total", "counter", ("queue", "job", "outcome"), self._processed)
        name = "pqlite_job_duration_seconds"
        yield f"# TYPE {name} histogram"
        for labels, counts in sorted(self._durations.items()):
            told, total = _labels(("queue", "job"), labels), 0
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
                total += count
                yield f'{name}_bucket{{{told},le="{bound}"}} {total}'
            yield f"{name}_sum{{{told}}} {self._seconds[labels]}"
            yield f"{name}_count{{{told}}} {total}"


async def _state(operations: Operations) -> list[str]:
    """Return the lines about the database."""
    stats, workers = await operations.stats(), await operations.workers()
    jobs: dict[Labels, float] = {}
    oldest: dict[Labels, float] = {}
    for each in stats.waiting:
        jobs[each.queue, each.job_type, "due"] = each.due.number
        jobs[each.queue, each.job_type, "later"] = each.later.number
        oldest[each.queue,] = max(oldest.get((each.queue,), 0.0), each.oldest_due_seconds or 0.0)
    states: dict[Labels, float] = {(state,): 0 for state in ("alive", "silent", "dead")}
    for worker in workers:
        states[worker.state,] += 1
    return [
        *_metric("pqlite_up", "gauge", (), {(): 1}),
        *_metric("pqlite_jobs", "gauge", ("queue", "job", "state"), jobs),
        *_metric("pqlite_queue_oldest_ready_seconds", "gauge", ("queue",), oldest),
        *_metric("pqlite_running", "gauge", (), {(): stats.running.number}),
        *_metric("pqlite_blocked", "gauge", (), {(): stats.blocked.number}),
        *_metric("pqlite_suspects", "gauge", (), {(): stats.suspects.number}),
        *_metric("pqlite_workers", "gauge", ("state",), states),
    ]


def _metric(name: str, kind: str, names: Labels, values: Mapping[Labels, float]) -> Iterator[str]:
    yield f"# TYPE {name} {kind}"
    for labels, value in sorted(values.items()):
        yield f"{name}{{{_labels(names, labels)}}} {value}" if names else f"{name} {value}"


def _labels(names: Labels, values: Labels) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
