"""Time zones, and the rule for the days on which clocks change.

| where the clock      | fixed times (`30 2 * * *`)                        | wildcards (`*/15 2 * * *`, `0 * * * *`) |
|----------------------|---------------------------------------------------|-----------------------------------------|
| jumps, 02:00 → 03:00 | once, at the first moment after the gap: 03:00;   | nothing in the gap: there is no such    |
|                      | two times in the gap are one slot                 | time                                    |
| repeats, 03:00 → 02:00 | once, when it is 02:30 for the first time       | both times                              |
| does neither         | when the clock shows it                           | when the clock shows it                 |

A *wildcard* is an expression whose second (of six fields), minute or hour begins with `*`, or has all values: it means
"periodically", and runs in every elapsed hour that it names. Any other expression means times of the day. (That is the
rule of Vixie cron. Intervals do not depend on zones.)
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pqlite.errors import InvalidSchedule
from pqlite.schedules.cron import Cron

SECOND = timedelta(seconds=1)
_SAMPLING = timedelta(hours=12)
"""The step of the search for clock changes: no zone has ever changed its clock twice within this time."""


@lru_cache(maxsize=1000)
def zone(name: str) -> tzinfo:
    """Return a time zone by its IANA name, such as "Europe/Berlin".

    The data come from the system, or else from the package `tzdata`; "UTC" needs none.

    Raises:
        InvalidSchedule: there is no such zone, or there are no data.
    """
    if not isinstance(name, str):
        raise InvalidSchedule(f"A time zone is given by its name, such as 'Europe/Berlin', not as {name!r}")
    if name == "UTC":
        return UTC
    try:
        if name.lower() in {"localtime", "local"} or name.startswith(("right/", "posix/")):
            raise ZoneInfoNotFoundError  # different on each host; with leap seconds
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


def next_tick(cron: Cron, tz: tzinfo, after: datetime) -> datetime | None:
    """Return the first tick of an expression after a time, both in UTC; None if there is none."""
    try:
        return _by_elapsed_time(cron, tz, after) if cron.wildcard else _by_the_clock(cron, tz, after)
    except OverflowError:  # the year 9999
        return None


def _by_the_clock(cron: Cron, tz: tzinfo, after: datetime) -> datetime | None:
    local = after.astimezone(tz)
    wall: datetime | None = local.replace(tzinfo=None, microsecond=0, fold=0)
    assert wall is not None
    if local.fold:  # in the repeated hour, whose ticks have fired: continue after it
        before = _offset(tz, after - _SAMPLING)
        change = _change(tz, after - _SAMPLING, after)
        wall = change.replace(tzinfo=None) + before - SECOND
    while (wall := cron.next(wall)) is not None:
        if (tick := _first_moment(tz, wall)) > after:
            return tick
    return None


def _first_moment(tz: tzinfo, wall: datetime) -> datetime:
    """Return when a clock first shows a time; for a time in a gap, the end of the gap."""
    moment = wall.replace(tzinfo=tz).astimezone(UTC)
    if moment.astimezone(tz).replace(tzinfo=None) == wall:
        return moment
    return _change(tz, wall.replace(tzinfo=tz, fold=1).astimezone(UTC), moment)


def _by_elapsed_time(cron: Cron, tz: tzinfo, after: datetime) -> datetime | None:
    # Between two changes of the clock, the offset from UTC is constant.
    start, offset = after, _offset(tz, after)
    wall = after.replace(tzinfo=None, microsecond=0) + offset
    while (found := cron.next(wall)) is not None:
        tick = (found - offset).replace(tzinfo=UTC)
        change = _first_change(tz, start, tick)
        if change is None:
            return tick
        start, offset = change, _offset(tz, change)
        wall = change.replace(tzinfo=None) + offset - SECOND
    return None


def _first_change(tz: tzinfo, after: datetime, until: datetime) -> datetime | None:
    """Return the first clock change of a zone in this period, None if there is none."""
    if isinstance(tz, timezone):
        return None
    for year in range(after.year, until.year + 1):
        for change in _changes(tz, year):
            if after < change <= until:
                return change
    return None


@lru_cache(maxsize=2000)
def _changes(tz: tzinfo, year: int) -> tuple[datetime, ...]:
    """Return the clock changes of a zone in a year (of UTC)."""
    found: list[datetime] = []
    offset: timedelta | None = None
    at = datetime(year, 1, 1, tzinfo=UTC) - SECOND
    end = datetime(year + 1, 1, 1, tzinfo=UTC) - SECOND
    while True:
        now = _offset(tz, at)
        if offset is not None and now != offset:
            found.append(_change(tz, at - _SAMPLING, at))
        if at >= end:
            return tuple(found)
        offset, at = now, at + _SAMPLING


def _change(tz: tzinfo, before: datetime, after: datetime) -> datetime:
    """Return the first moment at which a zone has the offset that it has at `after` and not at `before`."""
    offset, low, high = _offset(tz, after), before.replace(microsecond=0), after
    if low.microsecond != high.microsecond:
        high = high.replace(microsecond=0) + SECOND
    while high - low > SECOND:
        middle = low + (high - low) // 2
        middle = middle.replace(microsecond=0)
        if _offset(tz, middle) == offset:
            high = middle
        else:
            low = middle
    return high


def _offset(tz: tzinfo, at: datetime) -> timedelta:
    offset = at.astimezone(tz).utcoffset()
    assert offset is not None
    return offset
