"""Events: what workers and stores report to observers, such as the log, metrics and tests.

Observers run apart from the jobs, and cannot make one fail or wait. They receive an event soon after it happened; `at`
is the time it happened. The `Job` in an event is the worker's own object, not a copy: do not change it. It may have
changed since: a job that has just started may be DONE when an observer reads it. Events and outcomes do not change.

(Over 300 lines because it has every event.)
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
its own on the event loop (which it must not block). No job waits for it, and its exceptions are logged and ignored. It
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
    """A job was claimed a second time while its attempt still runs here, or its outcome is not written yet, because a
    crash of the server undid the first claim. The attempt, or the outcome, now belongs to the second claim.
    """

    job: Job


@dataclass(frozen=True, slots=True)
class JobStarted(WorkerEvent):
    """An attempt has begun."""

    job: Job


@dataclass(frozen=True, slots=True)
class JobStopping(WorkerEvent):
    """An attempt was asked to stop; `reason` is timeout, cancel, shutdown or lease, as in `ctx.stop_requested`."""

    job: Job
    reason: str


@dataclass(frozen=True, slots=True)
class JobEnded(WorkerEvent):
    """An attempt has ended, or was stopped before its handler was called. Its outcome is not written yet:
    `outcome.expected` is the status that the job should get; JobSettled has the status that it got.
    """

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class JobSettled(WorkerEvent):
    """An outcome was written to the database: of an attempt, or of a job that was claimed and then given back or
    cancelled before it started.

    `status` is the job's new status: DONE, FAILED, CANCELLED, or READY for another attempt. It can differ from
    `outcome.expected`: a job that was cancelled meanwhile is not retried.
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
    """The worker gave back jobs of a claim whose answer was lost, for example with its connection."""

    job_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class JobsTakenOver(WorkerEvent):
    """The reaper took over jobs of workers that are dead or no longer registered."""

    jobs: Sequence[TakenOver]


@dataclass(frozen=True, slots=True)
class JobsExpired(WorkerEvent):
    """Waiting jobs were cancelled because their `expires_at` has passed."""

    job_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class JobsPruned(WorkerEvent):
    """Finished jobs beyond their retention were deleted."""

    deleted: int


@dataclass(frozen=True, slots=True)
class ScheduleFired(WorkerEvent):
    """A job was enqueued for a slot of a schedule, `lateness` after the slot (by the server's clock)."""

    name: str
    slot: datetime
    job_id: int
    lateness: timedelta


@dataclass(frozen=True, slots=True)
class ScheduleSkipped(WorkerEvent):
    """At a slot the schedule's previous job (`job_id`) was still active: the slot is skipped, or waits if `held`."""

    name: str
    slot: datetime
    job_id: int | None
    held: bool


@dataclass(frozen=True, slots=True)
class ScheduleMissed(WorkerEvent):
    """So many slots of a schedule passed while no worker ran, and are skipped. They are counted up to 100."""

    name: str
    slots: int


@dataclass(frozen=True, slots=True)
class ScheduleFailed(WorkerEvent):
    """A schedule does not work: a value in its row is invalid, its job cannot be enqueued, or no worker has a handler
    for it. Announced once for each reason.
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
    """A background loop (`part`) failed and pauses before its next try; `failures` counts the failures in a row."""

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
    """A change made through one store object, in this process. Changes by other processes or by SQL are not reported;
    outcomes are reported by the worker.
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

    `committed` is False on the caller's own connection: the jobs exist once its transaction commits, which is not
    reported.
    """

    jobs: Sequence[EnqueuedJob]
    committed: bool


@dataclass(frozen=True, slots=True)
class Paused(StoreEvent):
    """A queue, a job type or a concurrency key (`scope`: "queue", "job_type", "key") was paused."""

    scope: str
    name: str
    reason: str | None
    by: str | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Resumed(StoreEvent):
    """A pause was ended."""

    scope: str
    name: str


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
