"""The slots of a schedule, in UTC: by a cron expression in a time zone, or at an interval from an anchor."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol

from pqlite.errors import InvalidSchedule
from pqlite.schedules.cron import Cron
from pqlite.schedules.parsing import parse
from pqlite.schedules.zones import next_tick, zone

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""The default anchor of intervals: 5 minutes are :00, :05 and so on, whenever a worker was started."""

SHORTEST = timedelta(seconds=1)
LONGEST = timedelta(days=36_525)


class Timing(Protocol):
    """The slots of a schedule: ascending, in whole microseconds."""

    def next(self, after: datetime) -> datetime | None:
        """Return the first slot after a time; None if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class CronTiming:
    """Slots by a cron expression in a time zone."""

    cron: Cron
    zone: tzinfo

    def next(self, after: datetime) -> datetime | None:
        """Return the first slot after a time; None if there is none."""
        return next_tick(self.cron, self.zone, after.astimezone(UTC))


@dataclass(frozen=True, slots=True)
class IntervalTiming:
    """Slots at `anchor` and at every whole number of intervals before and after it; days have 24 hours."""

    every: timedelta
    anchor: datetime

    def next(self, after: datetime) -> datetime | None:
        """Return the first slot after a time; None if there is none."""
        passed = (after - self.anchor) // self.every
        try:
            return (self.anchor + (passed + 1) * self.every).astimezone(UTC)
        except OverflowError:
            return None


def timing(cron: str | None, every: timedelta | None, *, anchor: datetime | None, timezone: str) -> Timing:
    """Return the slots of a schedule.

    Raises:
        InvalidSchedule: it has neither an expression nor an interval, or both, or an argument is invalid.
    """
    if (cron is None) == (every is None):
        raise InvalidSchedule("A schedule has either cron= or every=")
    if cron is not None:
        if anchor not in (None, EPOCH):
            raise InvalidSchedule("anchor= belongs to every=: a cron expression has no anchor")
        return CronTiming(parse(cron), zone(timezone))
    if not isinstance(every, timedelta) or not SHORTEST <= every <= LONGEST:
        raise InvalidSchedule(f"every must be a timedelta of 1 second to 100 years, not {every!r}")
    if timezone != "UTC":
        raise InvalidSchedule("timezone= belongs to cron=: an interval has the same length in every zone (see anchor=)")
    anchor = EPOCH if anchor is None else anchor
    if not isinstance(anchor, datetime) or anchor.utcoffset() is None:
        raise InvalidSchedule(f"anchor must be a datetime with a zone, not {anchor!r}")
    return IntervalTiming(every, anchor.astimezone(UTC))


def ticks(when: Timing, after: datetime) -> Iterator[datetime]:
    """Iterate over the slots after a time."""
    tick = when.next(after)
    while tick is not None:
        yield tick
        tick = when.next(tick)


def delay(name: str, slot: datetime, jitter: timedelta) -> timedelta:
    """Return the delay of a job after its slot: a random time below `jitter`, always the same for the same slot."""
    if jitter <= timedelta(0):
        return timedelta(0)
    seed = hashlib.sha256(f"{name}\0{slot.astimezone(UTC).isoformat()}".encode()).digest()
    return jitter * (int.from_bytes(seed[:4], "big") / 2**32)
