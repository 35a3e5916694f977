"""Facts that a worker announces. Logging, metrics and tests listen; none can fail a job by listening badly."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pqlite.job import Job, TakenOver
from pqlite.outcome import Outcome

logger = logging.getLogger(__name__)
_logger = logging.getLogger("pqlite")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in the worker that calls itself `worker_id` (its label)."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class WorkerRegistered(Event):
    """The worker is in the workers table as `holder` and may claim."""

    holder: str


@dataclass(frozen=True, slots=True)
class WorkerFenced(Event):
    """The worker can no longer prove that it is alive: its attempts are cancelled; `reason` says why."""

    holder: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerStopping(Event):
    """No more jobs are claimed; `running` attempts are given their grace."""

    running: int


@dataclass(frozen=True, slots=True)
class WorkerStopped(Event):
    """The worker has stopped; `left` attempts did not end in time and are left to the reaper."""

    left: int


@dataclass(frozen=True, slots=True)
class JobStarted(Event):
    """An attempt begins."""

    job: Job


@dataclass(frozen=True, slots=True)
class JobEnded(Event):
    """An attempt has ended; its outcome is decided, and not yet written."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class JobSettled(Event):
    """The database accepted the outcome."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class OutcomeRefused(Event):
    """The fence refused the outcome: the job is somebody else's by now. Nothing was changed."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class JobStuck(Event):
    """A handler was asked to stop and has not, `seconds` later."""

    job: Job
    seconds: float


@dataclass(frozen=True, slots=True)
class ClaimsReleased(Event):
    """Jobs this worker held by name but did not know of (a claim's answer was lost) were given back."""

    job_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class JobsTakenOver(Event):
    """The reaper took jobs from dead or unknown holders."""

    jobs: Sequence[TakenOver]


@dataclass(frozen=True, slots=True)
class JobsPruned(Event):
    """Finished jobs beyond their retention were deleted."""

    deleted: int


@dataclass(frozen=True, slots=True)
class LoopBlocked(Event):
    """The event loop has not turned for `seconds`; `stack` is where it stands."""

    seconds: float
    stack: str


@dataclass(frozen=True, slots=True)
class LoopFailed(Event):
    """A background loop (`part`) met an error and pauses; `consecutive` failures so far."""

    part: str
    error: BaseException
    consecutive: int


@dataclass(frozen=True, slots=True)
class LoopRecovered(Event):
    """A background loop works again after `failures` failures."""

    part: str
    failures: int


Observer = Callable[[Event], None]
"""Called with each event, on the event loop, in order. It must not block; what it raises is logged and ignored."""


class Announcer:
    """Delivers events to observers.

    `log` hears everything that is announced; `wanted` tells hot paths whether anybody wants each step of each job, so
    that nothing is built where nobody listens.
    """

    def __init__(self, observers: Sequence[Observer], log: Observer | None = None) -> None:
        self._observers = list(observers) if log is None else [log, *observers]
        self._details = len(observers)
        self.wanted = False
        """Whether anybody wants the steps of jobs that go well."""
        self.ask()

    def ask(self) -> None:
        """Find out what is wanted: asking the logger's level for each job would cost too much."""
        self.wanted = self._details > 0 or _logger.isEnabledFor(logging.DEBUG)

    def subscribe(self, observer: Observer) -> None:
        """Add an observer; it hears what happens from now on."""
        self._observers.append(observer)
        self._details += 1
        self.ask()

    def unsubscribe(self, observer: Observer) -> None:
        """Remove an observer."""
        self._observers.remove(observer)
        self._details -= 1
        self.ask()

    def __call__(self, event: Event) -> None:
        """Deliver one event; an observer's error is logged, never raised."""
        for observer in tuple(self._observers):
            try:
                observer(event)
            except Exception:
                logger.exception("An observer failed on %s.", type(event).__name__)
