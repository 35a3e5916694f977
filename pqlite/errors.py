"""What pqlite raises, and what a handler may raise to say how its attempt ends.

PqliteError
├── ConfigurationError      a setting or an argument that cannot work
├── InvalidJob              enqueue refused a job; nothing was written
│   └── PayloadError        its payload or metadata cannot be stored as JSON
├── InvalidSchedule         a schedule's expression, zone or policy cannot work; nothing was changed
├── ScheduleNotFound        no schedule has that name
├── ScheduleExists          a schedule has that name already, or is defined in code and cannot be removed
├── SchemaError             the database's schema is missing, too old or too new, or cannot be changed now
├── NotStarted              a store was used before start() or after close()
├── StoreTimeout            the database did not answer a store in time; perhaps it did what it was asked
├── JobNotFound             no job has that id
├── JobFailed               a job that was waited for has ended, and not as DONE
├── JobTimeoutError         a job that was waited for has not ended in time
├── UnexpectedResult        a job's result is not what its handler's annotation says
├── DedupeKeyBusy           another open transaction holds the dedupe key
├── DedupeConflict          another active job holds the dedupe key, and its id is not the answer
│   ├── HeldByCancelledJob  that job was asked to cancel and still runs
│   └── HeldByThisJob       that job is the one whose handler enqueues
├── NotInTransaction        the caller's connection is in no transaction, and was required to be
├── NotCommitted            a handler completed its job in a transaction that was not committed
├── LeaseLost               the claim is no longer current: somebody else owns the job
├── JobCancelled            the job was asked to cancel before it could complete
└── WorkerError             a worker cannot start, was entered twice, lost its database or did not stop cleanly

HandlerSignal               not errors: raised or returned by handlers
├── Fail                    FAILED at once, no retry
├── Cancel                  CANCELLED at once
├── RetryAfter              an error, retried after a delay of the handler's choice
└── Snooze                  run again later; no attempt counted
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any


class PqliteError(Exception):
    """Base of everything pqlite raises on purpose."""


class ConfigurationError(PqliteError, ValueError):
    """A setting, an environment variable or an argument that cannot work."""


class InvalidJob(PqliteError, ValueError):
    """Enqueue refused a job: a name, a number or a time is out of bounds. Nothing was written."""


class PayloadError(InvalidJob):
    """A payload (or metadata, or a result) cannot be stored as JSON. The message names the path of the offender."""


class InvalidSchedule(PqliteError, ValueError):
    """A schedule's cron expression, interval, time zone or policy cannot work. Nothing was changed."""


class ScheduleNotFound(PqliteError, LookupError):
    """No schedule has that name."""


class ScheduleExists(PqliteError):
    """A schedule has that name already; or it is defined in code, and would come back if it were removed."""


class SchemaError(PqliteError):
    """The database's schema is missing, older than this pqlite needs, or newer and no longer serves it; or a change
    of it was refused, for the reason that the message gives.
    """


class NotStarted(PqliteError, RuntimeError):
    """A store was used before `start()` or after `close()`, or in another event loop than that of `start()`."""


class StoreTimeout(PqliteError, TimeoutError):
    """The database did not answer within the store's `timeout`, or its pool had no connection to give for so long.

    `may_have_happened` says whether anything was sent: then it may have been done, or may yet be, and the connection
    was closed. An enqueue with a `dedupe_key`, a cancel or a `mark_*` can be repeated safely.
    """

    def __init__(self, message: str, *, may_have_happened: bool) -> None:
        super().__init__(message)
        self.may_have_happened = may_have_happened

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with what it was made of."""
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
        """Pickle with what it was made of."""
        return type(self), (self.job_id, self.status, self.last_error, self.errors)


class JobTimeoutError(PqliteError, TimeoutError):
    """A job that was waited for has not ended in time. The job is left alone."""


class UnexpectedResult(PqliteError):
    """A job is DONE, and its result is not what its handler's return annotation says. It is there, see `store.get`."""


class DedupeKeyBusy(PqliteError):
    """Another transaction that has not ended yet holds the dedupe key; nothing was written. Safe to repeat."""


class DedupeConflict(PqliteError):
    """An active job holds the dedupe key: a newer one, so that this one cannot become active again (`retry`); or one
    that will not do the work, see the subclasses (`enqueue`).
    """


class HeldByCancelledJob(DedupeConflict):
    """The job that holds the dedupe key, `job_id`, was asked to cancel and still runs, so nobody would do the work.
    Nothing was enqueued. To get a new run, wait for its end and enqueue again:

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
    """The caller's connection is in no transaction, so nothing would be rolled back with it; nothing was done."""


class NotCommitted(PqliteError):
    """A handler completed its job on a connection of its own, and that transaction was not committed."""


class LeaseLost(PqliteError):
    """The claim is no longer current: the worker was declared dead or the job was taken over. Nothing was changed."""


class JobCancelled(PqliteError):
    """Somebody asked to cancel the job before it could complete; the completing transaction was rolled back."""


class WorkerError(PqliteError, RuntimeError):
    """A worker cannot start or go on, was entered while it runs, or did not stop cleanly; the message says which."""


class HandlerSignal(Exception):
    """Base of what a handler raises, or returns, to say how its attempt ends.

    Raised in a task of a task group, `Fail` and `Cancel` count whatever the other tasks raise, the others if nothing
    else is raised.
    """

    def __init__(self, reason: object = "") -> None:
        super().__init__(reason)
        self.reason = reason
        """What the handler gave: a sentence, or the exception that made it decide so."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as it is: a class of the user's own may be made of other arguments than its base."""
        return _as_it_was, (type(self), self.args), vars(self)


class Fail(HandlerSignal):
    """The job is FAILED at once, whatever attempts are left; the reason is kept in `last_error`."""


class Cancel(HandlerSignal):
    """The job is CANCELLED at once; the reason is kept in `last_error`."""


class RetryAfter(HandlerSignal):
    """The attempt failed; the next one starts after `delay` (seconds or a timedelta) instead of the policy's delay."""

    def __init__(self, delay: float | timedelta, reason: object = "") -> None:
        super().__init__(reason)
        self.delay = _checked(self, delay)


class Snooze(HandlerSignal):
    """Run the job again after `delay` (seconds or a timedelta); the attempt is not counted."""

    def __init__(self, delay: float | timedelta, reason: object = "") -> None:
        super().__init__(reason)
        self.delay = _checked(self, delay)


def _as_it_was(kind: type[HandlerSignal], args: tuple[object, ...]) -> HandlerSignal:
    return kind.__new__(kind, *args)


def _checked(signal: HandlerSignal, delay: float | timedelta) -> float | timedelta:
    if not isinstance(delay, (int, float, timedelta)):
        raise TypeError(f"{type(signal).__name__} takes seconds or a timedelta, and then a reason, not {delay!r}")
    return delay
