"""The state of a running worker as values, for health pages, support and tests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pqlite.store.route import Pooling


@dataclass(frozen=True, slots=True)
class LaneState:
    """A lane that jobs were claimed from. Claims begin after `watermark` (a due time, by the server's clock).

    `active` says that it had due jobs at the last query.
    """

    queue: str
    job_type: str
    priority: int
    watermark: datetime
    active: bool


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The state of a worker at one moment; durations are in seconds.

    The three bounds say how long a busy worker can overlook a due job: in a lane that is new to it; in a lane that it
    knows, up to 5 s behind its watermark (the job's transaction committed late); anywhere else behind a watermark (a
    time in the past, a clock that was set back). They grow with the duration of the scans, which dead index entries
    make slow, so that scans take at most a twentieth of the time. An idle worker scans when it is notified, and at
    least every 10 s.
    """

    holder: str | None
    """The worker's value in jobs.locked_by; None while it is not registered."""
    running: int
    waiting: int
    """Claimed jobs that wait for a free slot."""
    undelivered: int
    """Outcomes that the database has not confirmed."""
    new_lanes_within: float
    late_commits_within: float
    anything_within: float
    round_trip: float
    """The duration of a claim (a moving average)."""
    pace: float | None
    """The duration of an attempt (a moving average); None before the first."""
    pooling: Pooling | None
    """The kind of pooler between the worker and the server; None before the first connection."""
    hears: bool
    """Whether the worker receives notifications of new jobs and of requests to cancel. If not, it polls for them."""
    lanes: tuple[LaneState, ...]
