"""Runs attempts: a claimed job and its handler become an outcome. Knows no SQL and no store's verbs."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import anyio.to_thread

from pqlite.backoff import BackoffPolicy
from pqlite.errors import Fail
from pqlite.events import Announcer, JobEnded, JobStarted, JobStuck
from pqlite.handlers import Handler, JobContext, is_async
from pqlite.job import Job, JobStatus
from pqlite.outcome import Outcome, Verb
from pqlite.store.base import JobStore
from pqlite.store.encoding import format_error
from pqlite.store.rows import Undecodable
from pqlite.worker.deciding import decide

logger = logging.getLogger(__name__)

STUCK_AFTER = 10.0
WAIT_AT_MOST = 1.0
"""A prefetched job that has not started after so many seconds is given back, uncharged."""
NO_PREFETCH_AFTER = 10.0
"""... and then nothing is prefetched for so long."""
PACE_WEIGHT = 0.05
PREFETCH_AT_MOST = 500
SHORT = 0.1


def worth_prefetching(concurrency: int, pace: float | None, round_trip: float) -> int:
    """Return how many jobs should wait in memory, for slots whose jobs take `pace` seconds: what is started in two
    round trips to the database; nothing where jobs take longer than a tenth of a second.
    """
    if pace is None or pace > SHORT:
        return 0
    rate = concurrency / max(pace, 1e-5)
    return min(int(rate * 2 * round_trip), int(rate * SHORT), PREFETCH_AT_MOST)


class Attempt:
    """One execution of one claim."""

    __slots__ = ("again", "context", "entered", "job", "started", "stuck", "task", "timer")

    def __init__(self, job: Job, context: JobContext) -> None:
        self.job = job
        self.context = context
        self.started = time.perf_counter()
        self.task: asyncio.Task[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.stuck: asyncio.TimerHandle | None = None
        self.entered = False
        """Whether the handler was called: a task can be cancelled before its first step."""
        self.again: Job | None = None
        """A later claim of the same job, given back when this attempt ends."""


class Executor:
    """Runs up to `concurrency` attempts, each in a task of its own; `submit` gets each outcome, once.

    Jobs claimed beyond that wait in memory for a slot, so that short jobs need not wait for a round trip each.
    """

    def __init__(
        self,
        *,
        handlers: Mapping[str, Handler],
        store: JobStore,
        worker_id: str,
        concurrency: int,
        backoff: BackoffPolicy,
        announce: Announcer,
        submit: Callable[[Outcome], None],
        wanting: Callable[[], None],
    ) -> None:
        self._handlers = {job_type: (handler, is_async(handler)) for job_type, handler in handlers.items()}
        self._store = store
        self._worker_id = worker_id
        self._concurrency = concurrency
        self._backoff = backoff
        self._announce = announce
        self._submit = submit
        self._wanting = wanting
        self._threads = anyio.CapacityLimiter(concurrency)
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        self._watching_waiting = False
        self._hoarded_at = -NO_PREFETCH_AFTER
        self._last_end = 0.0
        self._low_water = 0
        self.running: dict[int, Attempt] = {}
        self.waiting: deque[tuple[float, Job]] = deque()
        self.pace: float | None = None
        """How long an attempt takes, in seconds: a moving average, None before the first."""

    @property
    def free(self) -> int:
        """Return how many more attempts may start at once."""
        return 0 if self.waiting else self._concurrency - len(self.running)

    def prefetch(self, round_trip: float) -> int:
        """Return how many more jobs to let wait: enough for two round trips to the database; none while enough wait,
        and none soon after some waited too long. `wanting` is called when their number has fallen to a half.
        """
        hoarded = self._last_end < self._hoarded_at or time.monotonic() - self._hoarded_at < NO_PREFETCH_AFTER
        target = 0 if hoarded else worth_prefetching(self._concurrency, self.pace, round_trip)
        self._low_water = target // 2
        return target - len(self.waiting) if len(self.waiting) <= self._low_water else 0

    @property
    def held(self) -> list[int]:
        """Return the ids of all jobs that run or wait here."""
        return [*self.running, *(job.id for _, job in self.waiting)]

    def accept(self, job: Job) -> None:
        """Start a claimed job, or let it wait for a slot."""
        if len(self.running) < self._concurrency and not self.waiting:
            self.start(job)
            return
        self.waiting.append((time.monotonic(), job))
        if not self._watching_waiting:
            self._watching_waiting = True
            self._loop.call_later(WAIT_AT_MOST, self._watch_waiting)

    def release_waiting(self) -> None:
        """Give back what has not started, uncharged."""
        while self.waiting:
            self._submit(Outcome(self.waiting.popleft()[1], Verb.RELEASED))

    def _watch_waiting(self) -> None:
        now = time.monotonic()
        while self.waiting and now - self.waiting[0][0] >= WAIT_AT_MOST:
            self._hoarded_at = now
            self._submit(Outcome(self.waiting.popleft()[1], Verb.RELEASED))
        self._watching_waiting = bool(self.waiting)
        if self.waiting:
            self._loop.call_later(WAIT_AT_MOST - (now - self.waiting[0][0]), self._watch_waiting)

    @property
    def holds_suspect(self) -> bool:
        """Return whether a job that a dead worker held is here: one at a time, so that it takes few down with it."""
        return any(attempt.job.crashes for attempt in self.running.values())

    def start(self, job: Job) -> None:
        """Start an attempt of a claimed job."""
        context = JobContext(job, self._store, self._worker_id)
        attempt = self.running[job.id] = Attempt(job, context)
        self._idle.clear()
        if self._announce.wanted:
            self._announce(JobStarted(self._worker_id, job))
        attempt.task = self._loop.create_task(self._call(attempt))
        attempt.task.add_done_callback(partial(self._ended, attempt))
        if job.timeout_seconds is not None:
            attempt.timer = self._loop.call_later(job.timeout_seconds, self._stop, attempt, "timeout")

    def adopt(self, job: Job) -> bool:
        """Take over a new claim of a job that still runs or waits here; False if it does not.

        A server crash can undo a claim; the job then comes back while its attempt goes on.
        """
        attempt = self.running.get(job.id)
        held = attempt.job if attempt else next((waits for _, waits in self.waiting if waits.id == job.id), None)
        if held is None:
            return False
        if attempt is not None and held.status is JobStatus.DONE:
            # It completed in its own transaction, was retried by hand, and its handler has not returned yet.
            attempt.again = job
            return True
        held.claims, held.attempts, held.crashes = job.claims, job.attempts, job.crashes
        held.locked_by, held.locked_at = job.locked_by, job.locked_at
        return True

    def cancel(self, job_id: int, claims: int) -> None:
        """Stop an attempt because somebody asked to cancel its job."""
        attempt = self.running.get(job_id)
        if attempt is not None and attempt.job.claims == claims:
            self._stop(attempt, "cancel")
        for entry in [entry for entry in self.waiting if entry[1].id == job_id and entry[1].claims == claims]:
            self.waiting.remove(entry)
            self._submit(Outcome(entry[1], Verb.CANCELLED, error="cancelled"))

    def cancel_all(self, reason: str) -> None:
        """Stop every attempt, and give back what waits: 'shutdown' or 'lease'."""
        self.release_waiting()
        for attempt in tuple(self.running.values()):
            self._stop(attempt, reason)

    async def drained(self) -> None:
        """Wait until nothing runs."""
        await self._idle.wait()

    async def _call(self, attempt: Attempt) -> Any:
        attempt.entered, context = True, attempt.context
        entry = self._handlers.get(context.job.job_type)
        if entry is None:
            raise Fail(f"No handler is registered for job type {context.job.job_type!r}.")
        if isinstance(context.job.payload, Undecodable):
            raise Fail(f"The payload cannot be read: {context.job.payload.error}")
        handler, on_loop = entry
        try:
            if on_loop:
                return await handler(context)
            result = await self._in_thread(handler, context)
            return await result if inspect.isawaitable(result) else result
        except (SystemExit, KeyboardInterrupt) as error:
            raise _contained(error) from error

    async def _in_thread(self, handler: Handler, context: JobContext) -> Any:
        """Run a plain function in a thread, to its end: a thread cannot be cancelled, and a slot that is given away
        while it runs would let the same job run beside itself.
        """

        def call() -> Any:
            try:
                return handler(context)
            except (SystemExit, KeyboardInterrupt) as error:
                raise _contained(error) from error

        work = asyncio.ensure_future(anyio.to_thread.run_sync(call, limiter=self._threads))
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError:
                if context.stop_requested is None:
                    work.cancel()
                    raise
        return work.result()

    def _stop(self, attempt: Attempt, reason: str) -> None:
        if attempt.context._stop_reason is not None or attempt.task is None or attempt.task.done():
            return
        attempt.context._stop_reason = reason
        attempt.task.cancel()
        loop = asyncio.get_running_loop()
        attempt.stuck = loop.call_later(STUCK_AFTER, self._report_stuck, attempt)

    def _report_stuck(self, attempt: Attempt) -> None:
        if attempt.job.id in self.running:
            self._announce(JobStuck(self._worker_id, attempt.job, STUCK_AFTER))

    def _ended(self, attempt: Attempt, task: asyncio.Task[Any]) -> None:
        for timer in (attempt.timer, attempt.stuck):
            if timer is not None:
                timer.cancel()
        try:
            if not attempt.entered:
                outcome = Outcome(attempt.job, Verb.RELEASED)
            else:
                outcome = decide(attempt.job, attempt.context.stop_requested, task, self._backoff)
        except Exception as error:
            logger.exception("Deciding the outcome of job %s failed.", attempt.job.id)
            outcome = Outcome(attempt.job, Verb.RETRY, error=format_error(error), delay=60.0)
        took = time.perf_counter() - attempt.started
        self._last_end = time.monotonic()
        outcome.duration_ms = int(took * 1000)
        self.pace = took if self.pace is None else self.pace + PACE_WEIGHT * (took - self.pace)
        del self.running[attempt.job.id]
        if self._announce.wanted:
            self._announce(JobEnded(self._worker_id, outcome))
        self._submit(outcome)
        if attempt.again is not None:
            self._submit(Outcome(attempt.again, Verb.RELEASED))
        if self.waiting:
            self.start(self.waiting.popleft()[1])
        elif not self.running:
            self._idle.set()
        if len(self.waiting) <= self._low_water:
            self._wanting()


def _contained(error: BaseException) -> RuntimeError:
    """Return SystemExit or KeyboardInterrupt as an error: asyncio lets them out of the event loop, which would stop the
    whole app.
    """
    return RuntimeError(f"the handler raised {error!r}")
