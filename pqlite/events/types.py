"""Facts that workers and stores announce. Logging, metrics and tests hear them; none can fail or slow a job thereby.

An event is heard soon after it happened, and not while: `at` says when. The jobs and outcomes that it carries are the
worker's own, and are not copied. They are not to be changed, and may have gone on meanwhile: a job that has just been
started may be DONE when an observer looks at it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from pqlite.job import Job, JobStatus, TakenOver
from pqlite.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, `at` this time (seconds, `time.time()`)."""

    at: float = field(default_factory=time.time, kw_only=True, compare=False)


Observer: TypeAlias = Callable[[Event], None] | Callable[[Event], Awaitable[None]]
"""Called with each event, in order, one at a time: a plain function in a thread of its own, `async def` in a task of
its own on the event loop (which it must not block). Nothing waits for it, and what it raises is logged and ignored.
What it computes takes its share of the process's CPU, as everything in a process does.

Up to 10,000 events wait for an observer. Then further ones are dropped for it, until it has heard half of those; before
the next one it hears EventsMissed.
"""


@dataclass(frozen=True, slots=True)
class EventsMissed(Event):
    """The observer that hears this was too slow, and at this point `count` events were dropped for it."""

    count: int


# A worker


@dataclass(frozen=True, slots=True)
class WorkerEvent(Event):
    """Something that happened in the worker that calls itself `worker_id` (its label)."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class WorkerRegistered(WorkerEvent):
    """The worker is in the workers table as `holder` and may claim."""

    holder: str


@dataclass(frozen=True, slots=True)
class WorkerFenced(WorkerEvent):
    """The worker can no longer prove that it is alive: its attempts are cancelled; `reason` says why."""

    holder: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerStopping(WorkerEvent):
    """No more jobs are claimed; `running` attempts are given their grace."""

    running: int


@dataclass(frozen=True, slots=True)
class WorkerStopped(WorkerEvent):
    """The worker has stopped; `left` attempts did not end in time and are left to the reaper."""

    left: int


@dataclass(frozen=True, slots=True)
class JobsClaimed(WorkerEvent):
    """The worker has claimed jobs: some start at once, others when a slot is free, or are given back unstarted."""

    jobs: Sequence[Job]


@dataclass(frozen=True, slots=True)
class JobAdopted(WorkerEvent):
    """A job was claimed again whose attempt, or whose outcome, is still here: a crash of the server had undone the
    first claim. It is not started twice.
    """

    job: Job


@dataclass(frozen=True, slots=True)
class JobStarted(WorkerEvent):
    """An attempt begins."""

    job: Job


@dataclass(frozen=True, slots=True)
class JobStopping(WorkerEvent):
    """An attempt was asked to stop; `reason` is that of `ctx.stop_requested`: timeout, cancel, shutdown or lease."""

    job: Job
    reason: str


@dataclass(frozen=True, slots=True)
class JobEnded(WorkerEvent):
    """An attempt has ended, or was stopped before its handler was called. Its outcome is decided, not yet written:
    `outcome.expected` is the status that the job should get, JobSettled has the one that it got.
    """

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class JobSettled(WorkerEvent):
    """The database accepted the outcome. Also of jobs that were claimed and given back, or cancelled, unstarted.

    `status` is what the job is by now: DONE, FAILED, CANCELLED, or READY for another attempt. It can differ from what
    the outcome asked for: a job that somebody has cancelled is not retried, nor one that has no attempts left.
    """

    outcome: Outcome
    status: JobStatus


@dataclass(frozen=True, slots=True)
class OutcomeRefused(WorkerEvent):
    """The fence refused the outcome: the job is somebody else's by now. Nothing was changed."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class JobStuck(WorkerEvent):
    """A handler was asked to stop and has not, `seconds` later."""

    job: Job
    seconds: float


@dataclass(frozen=True, slots=True)
class ClaimsReleased(WorkerEvent):
    """Jobs this worker held by name but did not know of (a claim's answer was lost) were given back."""

    job_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class JobsTakenOver(WorkerEvent):
    """The reaper took jobs from dead or unknown holders."""

    jobs: Sequence[TakenOver]


@dataclass(frozen=True, slots=True)
class JobsPruned(WorkerEvent):
    """Finished jobs beyond their retention were deleted."""

    deleted: int


@dataclass(frozen=True, slots=True)
class LoopBlocked(WorkerEvent):
    """The event loop has not turned for `seconds`; `stack` is where it stands."""

    seconds: float
    stack: str


@dataclass(frozen=True, slots=True)
class LoopFailed(WorkerEvent):
    """A background loop (`part`) met an error and pauses; `failures` in a row so far."""

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
    """Something that was done through one store object, in this process. What others do in the database, it does not
    hear of; a worker's outcomes are the worker's to announce.
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

    `committed` is False on a connection of the caller's: its transaction decides whether they ever exist, and no event
    says what became of it.
    """

    jobs: Sequence[EnqueuedJob]
    committed: bool


@dataclass(frozen=True, slots=True)
class CancelRequested(StoreEvent):
    """Somebody asked to cancel a job. `status` is what `cancel` returned: CANCELLED at once, RUNNING if its worker is
    to stop it, or the end that it had come to before. `committed` is as for JobsEnqueued.
    """

    job_id: int
    status: JobStatus
    committed: bool


@dataclass(frozen=True, slots=True)
class RetryRequested(StoreEvent):
    """Somebody asked to run a job again. `status` is what `retry` returned: READY, or RUNNING or BLOCKED if it was left
    alone.
    """

    job_id: int
    status: JobStatus
