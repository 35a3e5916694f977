"""Schedules: their definition, their slots, and which slots fire now. No database; the caller passes the time."""

from pqlite.schedules.definition import Missed, Overlap, Schedule, StoredSchedule
from pqlite.schedules.planning import Plan, next_ticks, plan
from pqlite.schedules.timing import EPOCH, Timing, delay, timing
from pqlite.schedules.zones import zone

__all__ = [
    "EPOCH",
    "Missed",
    "Overlap",
    "Plan",
    "Schedule",
    "StoredSchedule",
    "Timing",
    "delay",
    "next_ticks",
    "plan",
    "timing",
    "zone",
]
