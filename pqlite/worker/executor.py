"""Runs the attempts of claimed jobs and submits their outcomes. Uses neither SQL nor methods of the store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from typing import Any

from pqlite.backoff import BackoffPolicy
from pqlite.codec import format_error
from pqlite.errors import Fail, HandlerSignal
from pqlite.events import JobEnded, JobStarted, JobStopping, JobStuck
from pqlite.events.announcer import Announcer
from pqlite.handlers import AnyHandler, JobContext, Middleware, Retrying, TypedHandler, compiled
from pqlite.handlers.middleware import CallNext
from pqlite.job import Job, JobStatus, current_job
from pqlite.outcome import Outcome, Verb
from pqlite.store.base import JobStore
from pqlite.store.rows import Undecodable
from pqlite.worker.attempt import Attempt
from pqlite.worker.completed import check_completed
from pqlite.worker.deciding import decide, outcome_of_result
from pqlite.worker.prefetch import PrefetchQueue
from pqlite.worker.runners import Threads
from pqlite.worker.tracebacks import code_of, from_handler

logger = logging.getLogger(__name__)

DONE = JobStatus.DONE
STUCK_AFTER = 10.0
PACE_WEIGHT = 0.05


class Executor:
    """Runs up to `concurrency` attempts, each in a task of its own; `submit` is called once with the outcome of each.

    Prefetched jobs wait in memory. Create it in a task that lives as long as the event loop: when that task is
    cancelled, the loop is ending.
    """

    def __init__(
        self,
        *,
        handlers: Mapping[str, AnyHandler],
        middleware: Sequence[Middleware],
        resources: Mapping[str, Any],
        store: JobStore,
        worker_id: str,
        concurrency: int,
        backoff: BackoffPolicy,
        announce: Announcer,
        submit: Callable[[Outcome], None],
        want_more: Callable[[], None],
    ) -> None:
        threads = Threads(concurrency)
        self._handlers = {t: compiled(each, threads.run, middleware) for t, each in handlers.items()}
        typed = [(t, each) for t, each in handlers.items() if isinstance(each, TypedHandler)]
        self._writers = {t: writer for t, each in typed if (writer := each.result.writer) is not None}
        self._retrying = {t: each.rules(backoff) for t, each in typed}
        self._codes = {
            t: code_of(each.function if isinstance(each, TypedHandler) else each) for t, each in handlers.items()
        }
        self._store, self._resources = store, resources
        self._worker_id, self._concurrency = worker_id, concurrency
        self._retrying_plain = Retrying(backoff)
        self._announce, self._submit, self._want_more = announce, submit, want_more
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop, self._owner = asyncio.get_running_loop(), asyncio.current_task()
        self._context = copy_context()
        self._last_end, self._requested, self._starting = 0.0, False, False
        self.running: dict[int, Attempt] = {}
        self.waiting = PrefetchQueue(self._release)
        self.pace: float | None = None
        """The duration of an attempt in seconds: a moving average, None before the first."""

    @property
    def free(self) -> int:
        """Return how many more attempts may start at once."""
        return 0 if self.waiting else self._concurrency - len(self.running)

    def prefetch(self, round_trip: float) -> int:
        """Return how many more jobs to prefetch, if a round trip to the database takes so many seconds. `want_more` is
        called when it is time to call this again.
        """
        self._requested = False
        return self.waiting.room(self._concurrency, self.pace, round_trip, self._last_end)

    @property
    def held(self) -> list[int]:
        """Return the ids of all jobs that run or wait here."""
        return [*self.running, *self.waiting.ids]

    def accept(self, jobs: Sequence[Job]) -> None:
        """Start claimed jobs, or let them wait for a slot."""
        self._announce.refresh_wanted()
        now = time.monotonic()
        for job in jobs:
            if len(self.running) < self._concurrency and not self.waiting:
                self.start(job)
            else:
                self.waiting.add(job, now)

    def _release(self, job: Job) -> None:
        self._submit(Outcome(job, Verb.RELEASED))

    def start(self, job: Job) -> None:
        """Start an attempt of a claimed job."""
        attempt = Attempt(job, JobContext(job, self._store, self._worker_id, self._resources))
        attempt.context._write = self._writers.get(job.job_type)
        if not self.running:
            self._idle.clear()
        self.running[job.id] = attempt
        if self._announce.wanted:
            self._announce(JobStarted(self._worker_id, job))
        if job.timeout_seconds is not None:
            attempt.timer = self._loop.call_later(job.timeout_seconds, self._stop, attempt, "timeout")
        attempt.task = self._context.copy().run(self._loop.create_task, self._run(attempt))

    def _start_waiting(self) -> None:
        # Guarded against recursion: an eager task can end, and start the next, before `start` returns.
        self._starting = True
        try:
            while self.waiting and len(self.running) < self._concurrency:
                self.start(self.waiting.take())
        finally:
            self._starting = False

    def adopt(self, job: Job) -> bool:
        """Assign a new claim to the attempt of a job that still runs or waits here; return False if there is none.

        A server crash can undo a claim; the job is then claimed again while its attempt is running.
        """
        attempt = self.running.get(job.id)
        held = self.waiting.get(job.id) if attempt is None else attempt.job
        if held is None:
            return False
        if attempt is not None and (held.status is DONE or attempt.context._completed_on):
            # The handler completed the job and has not returned yet, and the job was retried meanwhile.
            attempt.next_claim = job
            return True
        held.claims, held.attempts, held.crashes = job.claims, job.attempts, job.crashes
        held.locked_by, held.locked_at = job.locked_by, job.locked_at
        return True

    def cancel(self, job_id: int, claims: int) -> None:
        """Stop an attempt, or a waiting job, because the job was asked to cancel."""
        attempt, waits = self.running.get(job_id), self.waiting.get(job_id)
        if attempt is not None and attempt.job.claims == claims:
            self._stop(attempt, "cancel")
        elif waits is not None and waits.claims == claims:
            self.waiting.remove(job_id)
            self._submit(Outcome(waits, Verb.CANCELLED, error="cancelled"))

    def cancel_all(self, reason: str) -> None:
        """Stop every attempt, and give back the waiting jobs. `reason` is 'shutdown' or 'lease'."""
        self.waiting.clear()
        for attempt in tuple(self.running.values()):
            self._stop(attempt, reason)

    async def drained(self) -> None:
        """Wait until no attempt runs."""
        await self._idle.wait()

    async def _run(self, attempt: Attempt) -> None:
        """Call the handler, and submit the outcome. Raises nothing."""
        attempt.entered, context = True, attempt.context
        attempt.task = asyncio.current_task()
        current_job.set(context.job)
        result: Any = None
        error: BaseException | None = None
        try:
            result = await self._handler(context.job)(context)
        except BaseException as raised:
            if isinstance(raised, GeneratorExit) and not attempt.is_current:
                raise  # the coroutine is being destroyed with its event loop
            # Also SystemExit and KeyboardInterrupt, which asyncio would raise out of the event loop and end the app.
            trace = from_handler(raised.__traceback__, self._codes.get(context.job.job_type))
            error = BaseException.with_traceback(raised, trace)  # its class may override that method
        if context._completed_on:
            error = await check_completed(context, error)
        try:
            now = time.monotonic()
            self._ended(attempt, self._decide(attempt, result, error, now - attempt.started), now)
        finally:
            error = None  # its traceback may refer to this frame

    def _handler(self, job: Job) -> CallNext:
        entry = self._handlers.get(job.job_type)
        if entry is None:
            raise Fail(f"No handler is registered for job type {job.job_type!r}.")
        if type(job.payload) is Undecodable:
            raise Fail(f"The payload cannot be read: {job.payload.error}")
        return entry

    def _stop(self, attempt: Attempt, reason: str) -> None:
        if attempt.context._stop_reason is not None:
            return
        attempt.context._stop_reason = reason
        self._announce(JobStopping(self._worker_id, attempt.job, reason))
        if attempt.task is not None:
            attempt.task.cancel()
        if not attempt.entered:
            self._ended(attempt, Outcome(attempt.job, Verb.RELEASED), time.monotonic())
        else:
            attempt.stuck = self._loop.call_later(STUCK_AFTER, self._report_stuck, attempt)

    def _report_stuck(self, attempt: Attempt) -> None:
        if attempt.job.id in self.running:
            self._announce(JobStuck(self._worker_id, attempt.job, STUCK_AFTER))

    def _decide(self, attempt: Attempt, result: Any, error: BaseException | None, took: float) -> Outcome:
        job, reason = attempt.job, attempt.context._stop_reason
        try:
            if error is None and job.status is not DONE:
                if isinstance(result, HandlerSignal):
                    error = result  # returning a signal means the same as raising it
                elif (reason := attempt.interrupted_by(took)) is None:
                    return outcome_of_result(job, result, int(took * 1000), attempt.context._write)
                else:
                    error = asyncio.CancelledError()  # as if it had not caught it
            torn_down = self._owner is not None and (self._owner.cancelling() > 0 or self._owner.done())
            return decide(job, reason, error, torn_down, self._retrying.get(job.job_type, self._retrying_plain))
        except Exception as bug:
            logger.exception("Deciding the outcome of job %s failed.", job.id)
            return Outcome(job, Verb.RETRY, error=format_error(bug), delay=60.0)

    def _ended(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        if attempt.timer is not None:
            attempt.timer.cancel()
        if (progress := attempt.context._progress) is not None:
            progress.close()
        if attempt.stuck is not None:
            attempt.stuck.cancel()
        self._last_end, took = now, now - attempt.started
        if outcome.duration_ms is None:
            outcome = outcome._replace(duration_ms=int(took * 1000))
        self.pace = took if self.pace is None else self.pace + PACE_WEIGHT * (took - self.pace)
        del self.running[attempt.job.id]
        if self._announce.wanted:
            self._announce(JobEnded(self._worker_id, outcome))
        self._submit(outcome)
        if attempt.next_claim is not None:
            self._release(attempt.next_claim)
        if self.waiting and not self._starting:
            # Not in the context of the ended attempt, which has its job in `current_job`.
            self._context.run(self._start_waiting)
        if not self.running:
            self._idle.set()
        if not self._requested and len(self.waiting) <= self.waiting.low_water:
            self._requested = True
            self._want_more()
