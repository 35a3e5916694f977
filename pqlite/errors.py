"""The errors that pqlite raises, and the signals that a handler may raise to end its attempt.

PqliteError
├── ConfigurationError      a setting or an argument is invalid
├── InvalidJob              enqueue refused a job; nothing was written
│   └── PayloadError        its payload or metadata cannot be stored as JSON
├── InvalidSchedule         a schedule's expression, zone or policy is invalid; nothing was changed
├── ScheduleNotFound        no schedule has that name
├── ScheduleExists          a schedule has that name already, or is defined in code and cannot be removed
├── SchemaError             the database's schema is missing, too old or too new, or cannot be changed now
├── NotStarted              a store was used before start() or after close()
├── StoreTimeout            the database did not answer in time; the statement may have taken effect
├── JobNotFound             no job has that id
├── JobFailed               a job that was waited for has ended, and not as DONE
├── JobTimeoutError         a job that was waited for has not ended in time
├── UnexpectedResult        a job's result is not what its handler's annotation says
├── DedupeKeyBusy           another open transaction holds the dedupe key
├── DedupeConflict          another active job holds the dedupe key, and cannot stand for this one
│   ├── HeldByCancelledJob  that job was asked to cancel and still runs
│   └── HeldByThisJob       that job is the one whose handler enqueues
├── NotInTransaction        the caller's connection is not in a transaction, which the call requires
├── NotCommitted            a handler completed its job in a transaction that was not committed
├── LeaseLost               the claim is no longer current: the job may belong to another worker
├── JobCancelled            the job was asked to cancel before it could complete
└── WorkerError             a worker cannot start, was entered twice, lost its database or did not stop cleanly

HandlerSignal               raised or returned by handlers; not an error
├── Fail                    FAILED at once, no retry
├── Cancel                  CANCELLED at once
├── RetryAfter              a failed attempt, retried after a delay that the handler chooses
└── Snooze                  run again later; no attempt counted
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any


class PqliteError(Exception):
    """Base of all errors that pqlite defines."""


class ConfigurationError(PqliteError, ValueError):
    """A setting, an environment variable or an argument is invalid."""


class InvalidJob(PqliteError, ValueError):
    """Enqueue refused a job: a name, a number or a time is out of bounds. Nothing was written."""


class PayloadError(InvalidJob):
    """A payload (or metadata, or a result) cannot be stored as JSON. The message names the path of the wrong part."""


class InvalidSchedule(PqliteError, ValueError):
    """A schedule's cron expression, interval, time zone or policy is invalid. Nothing was changed."""


class ScheduleNotFound(PqliteError, LookupError):
    """No schedule has that name."""


class ScheduleExists(PqliteError):
    """A schedule has that name already; or it is defined in code, so that removing it would have no lasting effect."""


class SchemaError(PqliteError):
    """The database's schema is missing, older than this pqlite needs, or newer than it supports; or a change of the
    schema was refused, for the reason in the message.
    """


class NotStarted(PqliteError, RuntimeError):
    """A store was used before `start()`, after `close()`, or in another event loop than the one it was started in."""


class StoreTimeout(PqliteError, TimeoutError):
    """The database did not answer within the store's `timeout`, or no connection of the pool was free for so long.

    `may_have_happened` says whether a statement was sent: then it may have taken effect, or still may, and the
    connection was closed. An enqueue with a `dedupe_key`, a cancel or a `mark_*` can be repeated safely.
    """

    def __init__(self, message: str, *, may_have_happened: bool) -> None:
        super().__init__(message)
        self.may_have_happened = may_have_happened

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the arguments of the constructor."""
        return partial(type(self), may_have_happened=self.may_have_happened), self.args


class JobNotFound(PqliteError, LookupError):
    """No job has that id (it may have been pruned)."""


class JobFailed(PqliteError):
    """A job that was waited for has ended as `status`, FAILED or CANCELLED; `errors` has one entry per attempt."""

    def __init__(self, job_id: int, status: str, last_error: str | None, errors: list[dict[str, Any]]) -> None:
        last_line = (last_error or "").rstrip().rpartition("\n")[2]
        super().__init__(f"Job {job_id} is {status}" + (f": {last_line}" if last_line else "."))
        self.job_id = job_id
        self.status = status
        self.last_error = last_error
        self.errors = errors

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the arguments of the constructor."""
        return type(self), (self.job_id, self.status, self.last_error, self.errors)


class JobTimeoutError(PqliteError, TimeoutError):
    """A job that was waited for has not ended in time. The job is not changed."""


class UnexpectedResult(PqliteError):
    """A job is DONE, but its result does not match the handler's return annotation. `store.get` returns it as JSON."""


class DedupeKeyBusy(PqliteError):
    """Another open transaction holds the dedupe key; nothing was written. Safe to repeat."""


class DedupeConflict(PqliteError):
    """An active job holds the dedupe key. From `retry`: a newer job, so that the old one cannot become active again.
    From `enqueue`: a job that will not do the work, see the subclasses.
    """


class HeldByCancelledJob(DedupeConflict):
    """The job that holds the dedupe key, `job_id`, was asked to cancel and still runs. Nothing was enqueued. To get a
    new run, wait for its end and enqueue again:

        except HeldByCancelledJob as held:
            await store.wait_for(held.job_id, raise_on_failure=False)
            job_id = await store.enqueue(...)
    """

    def __init__(self, dedupe_key: str, job_id: int) -> None:
        super().__init__(
            f"Job {job_id}, which holds the dedupe key {dedupe_key!r}, was asked to cancel and still runs; nothing was "
            f"enqueued. Wait for its end (store.wait_for({job_id}, raise_on_failure=False)) and enqueue again."
        )
        self.dedupe_key = dedupe_key
        self.job_id = job_id

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with what it was made of."""
        return type(self), (self.dedupe_key, self.job_id)


class HeldByThisJob(DedupeConflict):
    """A handler enqueued the dedupe key of the job that it runs, `job_id`, which holds that key until it has ended. The
    follow-up was not enqueued; what the handler did before stays. Complete the job first, in the same transaction:

        async with ctx.complete() as conn:
            await ctx.store.enqueue(..., dedupe_key=ctx.job.dedupe_key, conn=conn)

    or, on a connection of your own, `await ctx.complete(conn=session)`, and then enqueue with `conn=session`.
    """

    def __init__(self, dedupe_key: str, job_id: int) -> None:
        super().__init__(
            f"Job {job_id} itself holds the dedupe key {dedupe_key!r} until it has ended; the follow-up was not "
            "enqueued. Complete the job first: enqueue with conn=conn inside 'async with ctx.complete() as conn', or "
            "with conn=session after 'await ctx.complete(conn=session)'."
        )
        self.dedupe_key = dedupe_key
        self.job_id = job_id

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with what it was made of."""
        return type(self), (self.dedupe_key, self.job_id)


class NotInTransaction(PqliteError):
    """The caller's connection is not in a transaction, so that the write could not be rolled back; nothing was done."""


class NotCommitted(PqliteError):
    """A handler completed its job on a connection of its own, and that transaction was not committed."""


class LeaseLost(PqliteError):
    """The claim is no longer current: the worker was declared dead or the job was taken over. Nothing was changed."""


class JobCancelled(PqliteError):
    """The job was asked to cancel before it could complete; the completing transaction was rolled back."""


class WorkerError(PqliteError, RuntimeError):
    """A worker cannot start or continue, was entered while it runs, or did not stop cleanly; see the message."""


class HandlerSignal(Exception):
    """Base of the signals that a handler raises, or returns, to end its attempt.

    In a task group, `Fail` and `Cancel` take precedence over everything that other tasks raise; the other signals count
    only if all tasks that raise raise signals.
    """

    def __init__(self, reason: object = "") -> None:
        super().__init__(reason)
        self.reason = reason
        """The handler's reason: a sentence or an exception."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the constructor: that of a user's subclass may take other arguments."""
        return _without_init, (type(self), self.args), vars(self)


class Fail(HandlerSignal):
    """The job is FAILED at once, whatever attempts are left; the reason is kept in `last_error`."""


class Cancel(HandlerSignal):
    """The job is CANCELLED at once; the reason is kept in `last_error`."""


class RetryAfter(HandlerSignal):
    """The attempt failed; the next one starts after `delay` (seconds or a timedelta) instead of the policy's delay."""

    def __init__(self, delay: float | timedelta, reason: object = "") -> None:
        super().__init__(reason)
        self.delay = _checked_delay(self, delay)


class Snooze(HandlerSignal):
    """Run the job again after `delay` (seconds or a timedelta); the attempt is not counted."""

    def __init__(self, delay: float | timedelta, reason: object = "") -> None:
        super().__init__(reason)
        self.delay = _checked_delay(self, delay)


def _without_init(kind: type[HandlerSignal], args: tuple[object, ...]) -> HandlerSignal:
    return kind.__new__(kind, *args)


def _checked_delay(signal: HandlerSignal, delay: float | timedelta) -> float | timedelta:
    if not isinstance(delay, (int, float, timedelta)):
        raise TypeError(f"{type(signal).__name__} takes seconds or a timedelta, and then a reason, not {delay!r}")
    return delay
