"""Events: what workers and stores report to observers, such as the log, metrics and tests.

Observers run apart from the jobs, and cannot make one fail or wait. They receive an event soon after it happened; `at`
says when. The `Job` in an event is the worker's own object, not a copy: do not change it. It may have changed since: a
job that has just started may be DONE when an observer looks at it. Events and outcomes do not change.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, TypeAlias

from pqlite.job import Job, JobStatus, TakenOver
from pqlite.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, `at` this time (seconds, `time.time()`)."""

    at: float = field(default_factory=time.time, kw_only=True, compare=False)


Observer: TypeAlias = Callable[[Event], None] | Callable[[Event], Awaitable[None]]
"""Called with each event, in order, one at a time: a plain function in a thread of its own, `async def` in a task of
its own on the event loop (which it must not block). Nothing waits for it, and what it raises is logged and ignored. It
shares the process's CPU with the jobs.

Up to 10,000 events wait for an observer. Further ones are dropped for it until it has received half of those; then it
receives EventsMissed before the next one.
"""


@dataclass(frozen=True, slots=True)
class EventsMissed(Event):
    """This observer was too slow: at this point in the sequence, `count` events were dropped for it."""

    count: int


# A worker


@dataclass(frozen=True, slots=True)
class WorkerEvent(Event):
    """Something that happened in a worker; `worker_id` is its label."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class WorkerRegistered(WorkerEvent):
    """The worker has registered, in the workers table, as `holder`, and may claim jobs."""

    holder: str


@dataclass(frozen=True, slots=True)
class WorkerFenced(WorkerEvent):
    """The worker could not renew its lease, or was declared dead (`reason`): it cancels its attempts, because others
    may take its jobs over.
    """

    holder: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerStopping(WorkerEvent):
    """The worker has begun to stop. It claims no more jobs; `running` attempts may go on for `shutdown_grace`."""

    running: int


@dataclass(frozen=True, slots=True)
class WorkerStopped(WorkerEvent):
    """The worker has stopped. `left` attempts did not end in time; the reaper of another worker recovers their jobs."""

    left: int


@dataclass(frozen=True, slots=True)
class JobsClaimed(WorkerEvent):
    """The worker has claimed jobs: some start at once, others when a slot is free, or are given back unstarted."""

    jobs: Sequence[Job]


@dataclass(frozen=True, slots=True)
class JobAdopted(WorkerEvent):
    """A job was claimed a second time while its attempt still runs here, or its outcome is still to be written: a crash
    of the server had undone the first claim. The attempt, or the outcome, now counts for the second claim.
    """

    job: Job


@dataclass(frozen=True, slots=True)
class JobStarted(WorkerEvent):
    """An attempt has begun."""

    job: Job


@dataclass(frozen=True, slots=True)
class JobStopping(WorkerEvent):
    """An attempt was asked to stop; `reason` is that of `ctx.stop_requested`: timeout, cancel, shutdown or lease."""

    job: Job
    reason: str


@dataclass(frozen=True, slots=True)
class JobEnded(WorkerEvent):
    """An attempt has ended, or was stopped before its handler was called. Its outcome is not written yet:
    `outcome.expected` is the status that the job should get, JobSettled has the one that it got.
    """

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class JobSettled(WorkerEvent):
    """An outcome was written to the database: of an attempt, or of a job that was claimed and then given back or
    cancelled before it started.

    `status` is what the job is by now: DONE, FAILED, CANCELLED, or READY for another attempt. It can differ from what
    the outcome asked for: a job that somebody has cancelled is not retried, nor one that has no attempts left.
    """

    outcome: Outcome
    status: JobStatus


@dataclass(frozen=True, slots=True)
class OutcomeRefused(WorkerEvent):
    """An outcome was refused, because the worker's claim on the job is no longer current. Nothing was changed."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class JobStuck(WorkerEvent):
    """A handler was asked to stop and still runs, `seconds` later."""

    job: Job
    seconds: float


@dataclass(frozen=True, slots=True)
class ClaimsReleased(WorkerEvent):
    """Jobs were given back that this worker had claimed without learning of it: the answer to a claim was lost."""

    job_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class JobsTakenOver(WorkerEvent):
    """The reaper took over jobs of workers that are dead or no longer registered."""

    jobs: Sequence[TakenOver]


@dataclass(frozen=True, slots=True)
class JobsPruned(WorkerEvent):
    """Finished jobs beyond their retention were deleted."""

    deleted: int


@dataclass(frozen=True, slots=True)
class ScheduleFired(WorkerEvent):
    """A slot of a schedule has become a job, `lateness` after it (by the server's clock)."""

    name: str
    slot: datetime
    job_id: int
    lateness: timedelta


@dataclass(frozen=True, slots=True)
class ScheduleSkipped(WorkerEvent):
    """A slot found the schedule's previous job (`job_id`) active: it is given up; or `held`, and waits for its end."""

    name: str
    slot: datetime
    job_id: int | None
    held: bool


@dataclass(frozen=True, slots=True)
class ScheduleMissed(WorkerEvent):
    """So many slots of a schedule passed while no worker ran, and are given up. From 100 on they are not counted."""

    name: str
    slots: int


@dataclass(frozen=True, slots=True)
class ScheduleFailed(WorkerEvent):
    """A schedule does not work: its row says something that cannot be computed or enqueued, or nobody handles its jobs.
    Told once for each reason.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class LoopBlocked(WorkerEvent):
    """The event loop was blocked for `seconds`; `stack` is the Python stack that blocked it."""

    seconds: float
    stack: str


@dataclass(frozen=True, slots=True)
class LoopFailed(WorkerEvent):
    """A background loop (`part`) failed, and pauses before it tries again; it is the `failures`-th failure in a row."""

    part: str
    error: BaseException
    failures: int


@dataclass(frozen=True, slots=True)
class LoopRecovered(WorkerEvent):
    """A background loop works again after `failures` in a row."""

    part: str
    failures: int


# A store


@dataclass(frozen=True, slots=True)
class StoreEvent(Event):
    """Something that was done through one store object, in this process. What other processes do, or SQL, is not
    reported; outcomes are reported by the worker.
    """


class EnqueuedJob(NamedTuple):
    """A job that was enqueued. `inserted` is False where an active job held its dedupe key: then `id` is that job's."""

    id: int
    job_type: str
    queue: str
    inserted: bool


@dataclass(frozen=True, slots=True)
class JobsEnqueued(StoreEvent):
    """Jobs were enqueued: one by `enqueue`, or those of one `enqueue_many`.

    `committed` is False on the caller's own connection: whether they come to exist is decided by its transaction, whose
    end is not reported.
    """

    jobs: Sequence[EnqueuedJob]
    committed: bool


@dataclass(frozen=True, slots=True)
class CancelRequested(StoreEvent):
    """`cancel` was called. `status` is what it returned: CANCELLED, RUNNING if the job's worker has yet to stop it, or
    the status with which the job had ended before. `committed` is as for JobsEnqueued.
    """

    job_id: int
    status: JobStatus
    committed: bool


@dataclass(frozen=True, slots=True)
class RetryRequested(StoreEvent):
    """`retry` was called. `status` is what it returned: READY, or RUNNING or BLOCKED if the job was left as it was."""

    job_id: int
    status: JobStatus
