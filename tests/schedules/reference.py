"""When cron expressions are due, written a second time and in another way: by walking, without search or sets of ours.

`by_minute` looks at every minute that passes and asks whether it is one; `by_day` at every day, and takes minutes only
on days on which the clock changes. Neither shares code with pqlite.schedules.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Expression:
    """An expression as text, and what it was made from: for each field its matching values, None for all of them."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int] | None
    last_day: bool
    months: frozenset[int]
    weekdays: frozenset[int] | None
    nth: tuple[int, int] | None
    wildcard: bool

    def on(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        by_number = self.days is not None and day.day in self.days
        by_number = by_number or (self.last_day and (day + DAY).month != day.month)
        weekday = day.isoweekday() % 7
        by_weekday = self.weekdays is not None and weekday in self.weekdays
        if self.nth is not None and weekday == self.nth[0]:
            n = self.nth[1]
            by_weekday = (day + 7 * DAY).month != day.month if n == 0 else (day.day - 1) // 7 + 1 == n
        any_day = self.days is None and not self.last_day and self.weekdays is None and self.nth is None
        return any_day or by_number or by_weekday

    def at(self, wall: datetime) -> bool:
        return wall.minute in self.minutes and wall.hour in self.hours and self.on(wall.date())


def by_minute(expression: Expression, zone: ZoneInfo, after: datetime, until: datetime) -> Iterator[datetime]:
    """Iterate over the ticks in a time, both ends in UTC and on whole minutes."""
    at = after
    shown_before = _wall(at, zone)
    while at < until:
        at += MINUTE
        local = at.astimezone(zone)
        wall = local.replace(tzinfo=None, fold=0)
        if expression.wildcard:
            if expression.at(wall):
                yield at
        elif not local.fold:
            jumped_over, due = shown_before + MINUTE, expression.at(wall)
            while jumped_over < wall and not due:
                due = expression.at(jumped_over)
                jumped_over += MINUTE
            if due:
                yield at
        shown_before = wall


def by_day(expression: Expression, zone: ZoneInfo, after: datetime, until: datetime) -> Iterator[datetime]:
    """Iterate over the same, day by day; from midnight UTC to midnight UTC."""
    day = after
    while day < until:
        offset = _steady_offset(zone, day)
        if offset is None:
            yield from by_minute(expression, zone, day, day + DAY)
        else:
            first, last = (day + offset + MINUTE).date(), (day + DAY + offset).date()
            for wall_day in (first, last) if first != last else (first,):
                if expression.on(wall_day):
                    for minutes in _times(expression):
                        at = datetime(wall_day.year, wall_day.month, wall_day.day, tzinfo=UTC) + minutes - offset
                        if day < at <= day + DAY:
                            yield at
        day += DAY


@lru_cache
def _times(expression: Expression) -> list[timedelta]:
    return [timedelta(hours=h, minutes=m) for h in sorted(expression.hours) for m in sorted(expression.minutes)]


@lru_cache(maxsize=200_000)
def _steady_offset(zone: ZoneInfo, day: datetime) -> timedelta | None:
    """Return the offset of a zone on a day of UTC, None if it changes on it, or did within the day before."""
    offsets = {(day + timedelta(hours=h)).astimezone(zone).utcoffset() for h in range(-24, 25)}
    return offsets.pop() if len(offsets) == 1 else None


def _wall(at: datetime, zone: ZoneInfo) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None, fold=0)


# Expressions by chance

_NAMES = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]


def _field(rng: random.Random, low: int, high: int, *, star: float) -> tuple[str, frozenset[int]]:
    everything = frozenset(range(low, high + 1))
    kind = rng.random()
    if kind < star:
        return "*", everything
    if kind < star + 0.15:
        step = rng.randint(2, (high - low) // 2)
        return f"*/{step}", frozenset(range(low, high + 1, step))
    values: set[int] = set()
    texts = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        first, last = sorted(rng.sample(range(low, high + 1), 2))
        if rng.random() < 0.7:
            texts.append(f"{first:02d}" if rng.random() < 0.1 else str(first))
            values.add(first)
        elif last - first >= 4 and rng.random() < 0.5:
            step = rng.randint(2, (last - first) // 2)
            texts.append(f"{first}-{last}/{step}")
            values.update(range(first, last + 1, step))
        else:
            texts.append(f"{first}-{last}")
            values.update(range(first, last + 1))
    return ",".join(texts), frozenset(values)


def expression_by_chance(rng: random.Random) -> Expression:
    """Make an expression of five fields that comes several times in ten years; often near the hours of DST."""
    minute, minutes = _field(rng, 0, 59, star=0.1)
    hour, hours = _field(rng, 0, 23, star=0.25)
    if rng.random() < 0.4:
        hour, hours = "", frozenset(rng.sample(range(5), rng.choice((1, 1, 2))))
        hour = ",".join(str(h) for h in hours)
    month, months = _field(rng, 1, 12, star=0.7)
    if rng.random() < 0.1:
        number = rng.randint(1, 12)
        month, months = _MONTHS[number - 1], frozenset({number})
    day, days, last_day = "*", None, False
    weekday, weekdays, nth = "*", None, None
    kind = rng.random()
    if kind < 0.2:
        day, found = _field(rng, 1, 28, star=0)
        days = found if not day.startswith("*") else frozenset(range(1, 32, int(day[2:])))
    elif kind < 0.3:
        day, days, last_day = "L", frozenset(), True
    if rng.random() < 0.3:
        if rng.random() < 0.3:
            nth = rng.randint(0, 6), rng.randint(0, 4)
            weekday = f"L{nth[0]}" if nth[1] == 0 else f"{rng.choice((nth[0], _NAMES[nth[0]]))}#{nth[1]}"
        else:
            weekdays = frozenset(rng.sample(range(7), rng.randint(1, 4)))
            weekday = ",".join(
                "7" if w == 0 and rng.random() < 0.3 else rng.choice((str(w), _NAMES[w])) for w in weekdays
            )
    wildcard = minute[0] == "*" or hour[0] == "*" or len(minutes) == 60 or len(hours) == 24
    text = f"{minute} {hour} {day} {month} {weekday}"
    return Expression(text, minutes, hours, days, last_day, months, weekdays, nth, wildcard)


ZONES = (
    "UTC",
    "Europe/Berlin",
    "Europe/London",
    "Europe/Lisbon",
    "Europe/Moscow",
    "Europe/Istanbul",
    "Europe/Dublin",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Africa/Johannesburg",
    "America/New_York",
    "America/Los_Angeles",
    "America/St_Johns",
    "America/Sao_Paulo",
    "America/Santiago",
    "America/Havana",
    "America/Mexico_City",
    "America/Phoenix",
    "America/Caracas",
    "America/Asuncion",
    "America/Scoresbysund",
    "America/Nuuk",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Asia/Tokyo",
    "Asia/Amman",
    "Asia/Gaza",
    "Asia/Beirut",
    "Asia/Pyongyang",
    "Australia/Sydney",
    "Australia/Lord_Howe",
    "Australia/Adelaide",
    "Pacific/Auckland",
    "Pacific/Chatham",
    "Pacific/Apia",
    "Pacific/Norfolk",
    "Atlantic/Azores",
    "Antarctica/Troll",
    "Africa/Juba",
)
"""Forty: gaps of half an hour (Lord Howe) and two hours (Troll), at midnight, in Ramadan, and of a zone for good."""
