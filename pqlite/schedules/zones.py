"""Time zones, and the one rule for the days on which clocks change.

| where the clock      | fixed times (`30 2 * * *`)                        | wildcards (`*/15 2 * * *`, `0 * * * *`) |
|----------------------|---------------------------------------------------|-----------------------------------------|
| jumps, 02:00 → 03:00 | once, at the first moment after the gap: 03:00;   | nothing in the gap: there is no such    |
|                      | two times in the gap are one slot                 | time                                    |
| repeats, 03:00 → 02:00 | once, when it is 02:30 for the first time       | both times                              |
| does neither         | when the clock shows it                           | when the clock shows it                 |

A *wildcard* is an expression whose second (of six fields), minute or hour begins with `*`, or has all its values: it
means "every so often", and runs in every real hour that it names. Any other means times of the day. (That is the rule
of Vixie's cron. Intervals know no zones.)
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pqlite.errors import InvalidSchedule
from pqlite.schedules.cron import Cron

SECOND = timedelta(seconds=1)
_LOOK = timedelta(hours=12)
"""No zone has ever changed its clock twice within so short a time."""


@lru_cache(maxsize=1000)
def zone(name: str) -> tzinfo:
    """Return a time zone by its IANA name, such as "Europe/Berlin".

    The data are the system's, else those of the package `tzdata`; "UTC" needs none.

    Raises:
        InvalidSchedule: there is no such zone, or there are no data.
    """
    if not isinstance(name, str):
        raise InvalidSchedule(f"A time zone is given by its name, such as 'Europe/Berlin', not as {name!r}")
    if name == "UTC":
        return UTC
    try:
        if name.lower() in {"localtime", "local"} or name.startswith(("right/", "posix/")):
            raise ZoneInfoNotFoundError  # another one on each host; of leap seconds
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    try:
        ZoneInfo("Europe/London")
    except (ZoneInfoNotFoundError, OSError):
        raise InvalidSchedule(
            f"The time zone {name!r} cannot be read: this system has no time zone data. Install the extra: "
            "pip install 'pqlite-queue[tzdata]'"
        ) from None
    raise InvalidSchedule(f"There is no time zone {name!r}: use a name like 'Europe/Berlin', or 'UTC'")


def next_tick(cron: Cron, place: tzinfo, after: datetime) -> datetime | None:
    """Return the first tick of an expression after a time, both in UTC; None if none comes any more."""
    try:
        return _by_elapsed_time(cron, place, after) if cron.wildcard else _by_the_clock(cron, place, after)
    except OverflowError:  # the year 9999
        return None


def _by_the_clock(cron: Cron, place: tzinfo, after: datetime) -> datetime | None:
    local = after.astimezone(place)
    wall: datetime | None = local.replace(tzinfo=None, microsecond=0, fold=0)
    assert wall is not None
    if local.fold:  # all that the clock shows until it is past what it repeats has been
        before = _offset(place, after - _LOOK)
        change = _change(place, after - _LOOK, after)
        wall = change.replace(tzinfo=None) + before - SECOND
    while (wall := cron.next(wall)) is not None:
        if (tick := _first_moment(place, wall)) > after:
            return tick
    return None


def _first_moment(place: tzinfo, wall: datetime) -> datetime:
    """Return when a clock shows a time for the first time, or, in a gap, when it has jumped over it."""
    moment = wall.replace(tzinfo=place).astimezone(UTC)
    if moment.astimezone(place).replace(tzinfo=None) == wall:
        return moment
    return _change(place, wall.replace(tzinfo=place, fold=1).astimezone(UTC), moment)


def _by_elapsed_time(cron: Cron, place: tzinfo, after: datetime) -> datetime | None:
    # From one change of the clock to the next, it goes as fast as the time.
    start, offset = after, _offset(place, after)
    wall = after.replace(tzinfo=None, microsecond=0) + offset
    while (found := cron.next(wall)) is not None:
        tick = (found - offset).replace(tzinfo=UTC)
        change = _first_change(place, start, tick)
        if change is None:
            return tick
        start, offset = change, _offset(place, change)
        wall = change.replace(tzinfo=None) + offset - SECOND
    return None


def _first_change(place: tzinfo, after: datetime, until: datetime) -> datetime | None:
    """Return when the clock of a place changes first in this time, None if it does not."""
    if isinstance(place, timezone):
        return None
    for year in range(after.year, until.year + 1):
        for change in _changes(place, year):
            if after < change <= until:
                return change
    return None


@lru_cache(maxsize=2000)
def _changes(place: tzinfo, year: int) -> tuple[datetime, ...]:
    """Return when the clock of a place changes in a year (of UTC)."""
    found: list[datetime] = []
    offset: timedelta | None = None
    at = datetime(year, 1, 1, tzinfo=UTC) - SECOND
    end = datetime(year + 1, 1, 1, tzinfo=UTC) - SECOND
    while True:
        now = _offset(place, at)
        if offset is not None and now != offset:
            found.append(_change(place, at - _LOOK, at))
        if at >= end:
            return tuple(found)
        offset, at = now, at + _LOOK


def _change(place: tzinfo, before: datetime, after: datetime) -> datetime:
    """Return the first moment of the offset that a place has at `after`, and has not at `before`."""
    offset, low, high = _offset(place, after), before.replace(microsecond=0), after
    if low.microsecond != high.microsecond:
        high = high.replace(microsecond=0) + SECOND
    while high - low > SECOND:
        middle = low + (high - low) // 2
        middle = middle.replace(microsecond=0)
        if _offset(place, middle) == offset:
            high = middle
        else:
            low = middle
    return high


def _offset(place: tzinfo, at: datetime) -> timedelta:
    offset = at.astimezone(place).utcoffset()
    assert offset is not None
    return offset
