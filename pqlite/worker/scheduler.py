"""Fires schedules at their slots. Every worker may do so, without a leader: the SQL lets one of them succeed.

It sleeps until the soonest `next_at`, which each renewal of the worker's lease returns (a change of a schedule sends a
notification, which causes a renewal). Without schedules, it executes no statement.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from pqlite.events import ScheduleFailed, ScheduleFired, ScheduleMissed, ScheduleSkipped
from pqlite.events.announcer import Announcer
from pqlite.store.scheduling import DueSchedule, SchedulePort, Verdict, planned
from pqlite.worker.supervisor import FOREVER

logger = logging.getLogger(__name__)

STATEMENT_SECONDS = 30.0
BATCH = 60
"""How many schedules fire in one transaction; each opens a subtransaction, and more than 64 stall standbys."""
RECONCILE_EVERY = 60.0
GRACE = timedelta(minutes=5)
"""How long a schedule stays enabled that no running release defines any more."""
STAGGER = 0.02
"""Workers that wait for the same slot are delayed by a random time up to so many seconds, so that they do not collide.
"""
HELD = 1.0
"""How often to try a slot that waits for the end of the previous job."""
CONTENDED = 0.05
"""How long to wait if other workers were firing everything that was due."""


class Scheduler:
    """Stores the schedules that the code defines, and fires those that are due.

    Args:
        port: the store's schedules, on a connection of the worker.
        definitions: the schedules that the code defines, see `SchedulePort.reconcile`.
        fired: called when jobs were enqueued.
    """

    def __init__(
        self,
        *,
        port: SchedulePort,
        definitions: Sequence[Mapping[str, Any]],
        worker_id: str,
        announce: Announcer,
        fired: Callable[[], None],
    ) -> None:
        self._port = port
        self._definitions = definitions
        self._worker_id = worker_id
        self._announce = announce
        self._fired = fired
        self._due_at = math.inf  # time.monotonic
        self._reconcile_at = -math.inf if definitions else math.inf
        self._may_disable_at = time.monotonic() + GRACE.total_seconds()
        self._logged: dict[str, str] = {}
        self.allowed = False
        """Whether the schema is known to support schedules."""

    def set_due(self, seconds: float | None) -> bool:
        """Set in how many seconds the next schedule is due (None: there is none); return whether that is sooner than
        before, so that the scheduler must be woken.
        """
        if seconds is None:
            return False
        due_at = time.monotonic() + seconds
        sooner = due_at < self._due_at - STAGGER
        self._due_at = min(self._due_at, due_at)
        return sooner

    async def step(self) -> float:
        """Reconcile and fire if either is due; return how long to pause."""
        if not self.allowed:
            return FOREVER
        if time.monotonic() >= self._reconcile_at:
            await self._reconcile()
        if time.monotonic() >= self._due_at:
            await self._fire()
        return max(0.0, min(self._due_at, self._reconcile_at, time.monotonic() + FOREVER) - time.monotonic())

    async def _reconcile(self) -> None:
        disable = time.monotonic() >= self._may_disable_at
        verdicts = await self._port.reconcile(self._definitions, GRACE, disable=disable)
        self._reconcile_at = time.monotonic() + RECONCILE_EVERY * random.uniform(0.8, 1.0)
        for name, verdict in verdicts:
            if self._logged.get(name) != verdict:
                self._logged[name] = verdict
                logger.log(_LEVELS.get(verdict, logging.INFO), _SENTENCES[verdict], name)
        if any(verdict in {"ADDED", "CHANGED", "ENABLED"} for _, verdict in verdicts):
            self._due_at = -math.inf

    async def _fire(self) -> None:
        rows = await self._port.due(BATCH)
        asked = time.monotonic()
        due = [row for row in rows if row.next_at <= row.now]
        later = [(row.next_at - row.now).total_seconds() for row in rows if row.next_at > row.now]
        if not due:
            self._due_at = asked + later[0] + random.uniform(0, STAGGER) if later else math.inf
            return
        plans = [planned(row) for row in due]
        verdicts = await self._port.fire(plans)
        self._announce_verdicts(verdicts)
        if any(each.verdict == "FIRED" for each in verdicts):
            self._fired()
        self._due_at = asked + self._next(due, plans, later) + random.uniform(0, STAGGER)
        settled = {each.name for each in verdicts if each.verdict in {"FIRED", "SKIPPED"}}
        if any(plan.get("slots") and plan["name"] not in settled for plan in plans):
            self._due_at = min(self._due_at, asked + HELD)  # it waits for its previous job, or another worker fired it
        if len(due) >= BATCH:
            self._due_at = asked if verdicts else asked + CONTENDED

    def _next(self, due: Sequence[DueSchedule], plans: Sequence[Mapping[str, Any]], later: Sequence[float]) -> float:
        """Return in how many seconds the next schedule is due, counted from the moment at which `due` was read."""
        now = due[0].now
        soonest = [(plan["next_at"] - now).total_seconds() for plan in plans if plan.get("next_at") is not None]
        return float(max(min([*soonest, *later, FOREVER]), 0.0))

    def _announce_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        for each in verdicts:
            match each.verdict:
                case "FIRED":
                    assert each.slot is not None
                    assert each.job_id is not None
                    late = timedelta(seconds=each.late or 0.0)
                    self._announce(ScheduleFired(self._worker_id, each.name, each.slot, each.job_id, late))
                case "SKIPPED" | "HELD":
                    assert each.slot is not None
                    held = each.verdict == "HELD"
                    self._announce(ScheduleSkipped(self._worker_id, each.name, each.slot, each.job_id, held))
                case "MISSED":
                    self._announce(ScheduleMissed(self._worker_id, each.name, each.times))
                case _:
                    self._announce(ScheduleFailed(self._worker_id, each.name, each.detail or ""))


_LEVELS = {"TAKEN": logging.WARNING, "DISABLED": logging.WARNING}
_SENTENCES = {
    "ADDED": "Schedule %s is new.",
    "CHANGED": "Schedule %s was changed by this release.",
    "ENABLED": "Schedule %s is defined again.",
    "DISABLED": "Schedule %s is disabled: no running release defines it any more.",
    "OLDER": "Schedule %s stays as a newer running release defines it.",
    "TAKEN": "Schedule %s was added at run time and is not replaced by the one of the same name in the code.",
}
