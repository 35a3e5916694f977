"""pqlite: a PostgreSQL job queue that lives in an ASGI app's lifespan."""

from typing import TYPE_CHECKING

from pqlite.lazy_imports import lazy_getattr

if TYPE_CHECKING:
    from pqlite.backoff import BackoffPolicy, Constant, Exponential, IdlePollPolicy, Linear, LoopErrorPolicy
    from pqlite.errors import (
        Cancel,
        ConfigurationError,
        DedupeConflict,
        DedupeKeyBusy,
        Fail,
        HeldByCancelledJob,
        HeldByThisJob,
        InvalidJob,
        InvalidSchedule,
        JobCancelled,
        JobFailed,
        JobNotFound,
        JobTimeoutError,
        LeaseLost,
        NotCommitted,
        NotInTransaction,
        NotStarted,
        PayloadError,
        PqliteError,
        RetryAfter,
        ScheduleExists,
        ScheduleNotFound,
        SchemaError,
        Snooze,
        StoreTimeout,
        UnexpectedResult,
        WorkerError,
    )
    from pqlite.events import Event, Observer
    from pqlite.handlers import CallNext, Depends, Handler, Handlers, Hooks, JobContext, Middleware, TypedHandler
    from pqlite.job import Enqueued, Job, JobId, JobOutcome, JobStatus, NewJob, TypedJob
    from pqlite.observability import JobFields
    from pqlite.schedules import Schedule, StoredSchedule
    from pqlite.store import JobStore, PgJobStore
    from pqlite.worker import Worker

__version__ = "0.1.0"

__all__ = [
    "BackoffPolicy",
    "CallNext",
    "Cancel",
    "ConfigurationError",
    "Constant",
    "DedupeConflict",
    "DedupeKeyBusy",
    "Depends",
    "Enqueued",
    "Event",
    "Exponential",
    "Fail",
    "Handler",
    "Handlers",
    "HeldByCancelledJob",
    "HeldByThisJob",
    "Hooks",
    "IdlePollPolicy",
    "InvalidJob",
    "InvalidSchedule",
    "Job",
    "JobCancelled",
    "JobContext",
    "JobFailed",
    "JobFields",
    "JobId",
    "JobNotFound",
    "JobOutcome",
    "JobStatus",
    "JobStore",
    "JobTimeoutError",
    "LeaseLost",
    "Linear",
    "LoopErrorPolicy",
    "Middleware",
    "NewJob",
    "NotCommitted",
    "NotInTransaction",
    "NotStarted",
    "Observer",
    "PayloadError",
    "PgJobStore",
    "PqliteError",
    "RetryAfter",
    "Schedule",
    "ScheduleExists",
    "ScheduleNotFound",
    "SchemaError",
    "Snooze",
    "StoreTimeout",
    "StoredSchedule",
    "TypedHandler",
    "TypedJob",
    "UnexpectedResult",
    "Worker",
    "WorkerError",
]

if not TYPE_CHECKING:  # to a type checker every name would exist
    # Each name is imported at its first use: pytest loads our plugin in every project that has pqlite installed, and
    # must not load asyncpg with it.
    __getattr__ = lazy_getattr(
        __name__,
        __all__,
        ("errors", "backoff", "job", "events", "handlers", "observability", "schedules", "store", "worker"),
    )
