"""Runs attempts: a claimed job and its handler become an outcome. Knows no SQL and no store's verbs."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio.to_thread

from pqlite.backoff import BackoffPolicy, retry_seconds, seconds
from pqlite.errors import Cancel, Fail, PayloadError, RetryAfter, Snooze
from pqlite.events import Announcer, JobEnded, JobStarted, JobStuck
from pqlite.handlers import Handler, JobContext, is_async
from pqlite.job import Job, JobStatus
from pqlite.outcome import Outcome, Verb
from pqlite.store.base import JobStore
from pqlite.store.encoding import clean_text, encode_clean, format_error
from pqlite.store.rows import Undecodable

logger = logging.getLogger(__name__)

STUCK_AFTER = 10.0
MAX_RESULT_BYTES = 16 * 1024 * 1024


class Attempt:
    """One execution of one claim."""

    __slots__ = ("context", "job", "started", "stuck", "task", "timer")

    def __init__(self, job: Job, context: JobContext) -> None:
        self.job = job
        self.context = context
        self.started = time.perf_counter()
        self.task: asyncio.Task[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.stuck: asyncio.TimerHandle | None = None


class Executor:
    """Runs up to `concurrency` attempts, each in a task of its own; `submit` gets each outcome, once."""

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
    ) -> None:
        self._handlers = {job_type: (handler, is_async(handler)) for job_type, handler in handlers.items()}
        self._store = store
        self._worker_id = worker_id
        self._concurrency = concurrency
        self._backoff = backoff
        self._announce = announce
        self._submit = submit
        self._threads = anyio.CapacityLimiter(concurrency)
        self._idle = asyncio.Event()
        self._idle.set()
        self.running: dict[int, Attempt] = {}

    @property
    def free(self) -> int:
        """Return how many more attempts may start."""
        return self._concurrency - len(self.running)

    @property
    def runs_suspect(self) -> bool:
        """Return whether a job that a dead worker held runs here: one at a time, so that it takes few down with it."""
        return any(attempt.job.crashes for attempt in self.running.values())

    def start(self, job: Job) -> None:
        """Start an attempt of a claimed job."""
        context = JobContext(job, self._store, self._worker_id)
        attempt = self.running[job.id] = Attempt(job, context)
        self._idle.clear()
        if self._announce.wanted:
            self._announce(JobStarted(self._worker_id, job))
        loop = asyncio.get_running_loop()
        attempt.task = loop.create_task(self._call(context), name=f"{job.job_type} {job.id}")
        attempt.task.add_done_callback(partial(self._ended, attempt))
        if job.timeout_seconds is not None:
            attempt.timer = loop.call_later(job.timeout_seconds, self._stop, attempt, "timeout")

    def adopt(self, job: Job) -> bool:
        """Take over a new claim of a job that still runs here; False if it does not.

        A server crash can undo a claim; the job then comes back while its attempt goes on.
        """
        attempt = self.running.get(job.id)
        if attempt is None:
            return False
        held = attempt.job
        held.claims, held.attempts, held.locked_by, held.locked_at = (
            job.claims,
            job.attempts,
            job.locked_by,
            job.locked_at,
        )
        return True

    def cancel(self, job_id: int, claims: int) -> None:
        """Stop an attempt because somebody asked to cancel its job."""
        attempt = self.running.get(job_id)
        if attempt is not None and attempt.job.claims == claims:
            self._stop(attempt, "cancel")

    def cancel_all(self, reason: str) -> None:
        """Stop every attempt: 'shutdown' or 'lease'."""
        for attempt in tuple(self.running.values()):
            self._stop(attempt, reason)

    async def drained(self) -> None:
        """Wait until nothing runs."""
        await self._idle.wait()

    async def _call(self, context: JobContext) -> Any:
        entry = self._handlers.get(context.job.job_type)
        if entry is None:
            raise Fail(f"No handler is registered for job type {context.job.job_type!r}.")
        if isinstance(context.job.payload, Undecodable):
            raise Fail(f"The payload cannot be read: {context.job.payload.error}")
        handler, on_loop = entry
        with _contained():
            result = handler(context) if on_loop else await self._in_thread(handler, context)
            return await result if inspect.isawaitable(result) else result

    async def _in_thread(self, handler: Handler, context: JobContext) -> Any:
        """Run a plain function in a thread, to its end: a thread cannot be cancelled, and a slot that is given away
        while it runs would let the same job run beside itself.
        """

        def call() -> Any:
            with _contained():
                return handler(context)

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
            outcome = decide(attempt, task, self._backoff)
        except Exception as error:
            logger.exception("Deciding the outcome of job %s failed.", attempt.job.id)
            outcome = Outcome(attempt.job, Verb.RETRY, error=format_error(error), delay=60.0)
        outcome.duration_ms = int((time.perf_counter() - attempt.started) * 1000)
        del self.running[attempt.job.id]
        if not self.running:
            self._idle.set()
        if self._announce.wanted:
            self._announce(JobEnded(self._worker_id, outcome))
        self._submit(outcome)


@contextmanager
def _contained() -> Iterator[None]:
    """Turn SystemExit and KeyboardInterrupt into errors: asyncio lets them out of the event loop, which would stop
    the whole app.
    """
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"the handler raised {error!r}") from error


def decide(attempt: Attempt, task: asyncio.Task[Any], backoff: BackoffPolicy) -> Outcome:
    """Return the outcome of an attempt whose task has ended. The one place where an exception becomes an outcome."""
    job, reason = attempt.job, attempt.context.stop_requested
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    if job.status is JobStatus.DONE:
        if error is not None and not isinstance(error, asyncio.CancelledError):
            logger.error("Job %s failed after it was completed; it stays DONE.", job.id, exc_info=error)
        return Outcome(job, Verb.DONE, committed=True)
    match error:
        case None:
            return _returned(job, task.result())
        case Snooze():
            return Outcome(job, Verb.SNOOZED, error=_reason(error), delay=seconds(error.delay))
        case Cancel():
            return Outcome(job, Verb.CANCELLED, error=_reason(error))
        case Fail():
            return Outcome(job, Verb.FAILED, error=_reason(error) or "Fail")
        case RetryAfter():
            return Outcome(job, Verb.RETRY, error=_reason(error) or "RetryAfter", delay=seconds(error.delay))
        case asyncio.CancelledError():
            return _cancelled(job, reason, task, backoff)
        case _ if reason in ("shutdown", "lease"):
            # It was asked to stop and stumbled on the way out: a deploy never costs an attempt.
            return Outcome(job, Verb.RELEASED)
        case _ if reason == "cancel":
            return Outcome(job, Verb.CANCELLED, error=format_error(error))
        case _:
            return Outcome(job, Verb.RETRY, error=format_error(error), delay=_retry_delay(job, backoff))


def _returned(job: Job, result: Any) -> Outcome:
    try:
        return Outcome(job, Verb.DONE, result=encode_clean(result, max_bytes=MAX_RESULT_BYTES))
    except PayloadError as error:
        # The work is done; running it again would not make its result storable.
        return Outcome(job, Verb.FAILED, error=f"The handler finished, but its result cannot be stored: {error}")


def _cancelled(job: Job, reason: str | None, task: asyncio.Task[Any], backoff: BackoffPolicy) -> Outcome:
    match reason:
        case "timeout":
            error = f"TimeoutError: the attempt took longer than timeout_seconds ({job.timeout_seconds:g} s)"
            return Outcome(job, Verb.RETRY, error=error, delay=_retry_delay(job, backoff))
        case "cancel":
            return Outcome(job, Verb.CANCELLED, error="cancelled")
        case "shutdown" | "lease":
            return Outcome(job, Verb.RELEASED)
        case _ if task.cancelling():
            # Somebody else cancels every task: the event loop is being torn down.
            return Outcome(job, Verb.RELEASED)
        case _:
            error = "CancelledError: the handler raised it, nobody had asked it to stop"
            return Outcome(job, Verb.RETRY, error=error, delay=_retry_delay(job, backoff))


def _retry_delay(job: Job, backoff: BackoffPolicy) -> float:
    try:
        return retry_seconds(backoff, job.attempts)
    except Exception:
        logger.exception("%s failed on attempt %s; using pqlite's own delays.", type(backoff).__name__, job.attempts)
        return retry_seconds(BackoffPolicy(), job.attempts)


def _reason(signal: Fail | Cancel | Snooze | RetryAfter) -> str | None:
    return clean_text(signal.reason) or None
