"""What a running worker knows about itself: for health pages, support and tests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pqlite.store.route import Pooling


@dataclass(frozen=True, slots=True)
class LaneState:
    """A lane that jobs came from; claims begin behind `watermark` (a due time, by the server's clock).

    `active` says that it had due jobs when it was last asked.
    """

    queue: str
    job_type: str
    priority: int
    watermark: datetime
    active: bool


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The state of a worker at one moment; durations are in seconds.

    The three bounds say how long a due job can stay unseen by a busy worker: in a lane that nobody has seen before; in
    a known lane, up to 5 s behind its watermark (its transaction committed late); anywhere else behind a watermark (a
    time in the past, a clock that was set back). They grow with what the looks cost, which is what index entries cost
    that vacuum may not remove, so that looking takes a twentieth of the time at most. An idle worker looks when it is
    notified, and every 10 s at least.
    """

    holder: str | None
    """What jobs.locked_by says of this worker; None while it is not registered."""
    running: int
    waiting: int
    """Jobs claimed to start soon."""
    undelivered: int
    """Outcomes that the database has not answered for."""
    new_lanes_within: float
    late_commits_within: float
    anything_within: float
    round_trip: float
    """How long a claim takes (a moving average)."""
    pace: float | None
    """How long an attempt takes (a moving average); None before the first."""
    pooling: Pooling | None
    """What stands between the worker and the server; None before the first connection."""
    hears: bool
    """Whether notifications can come: of new jobs, of requests to cancel. Else they are polled for."""
    lanes: tuple[LaneState, ...]
