"""Cron expressions, and their ticks on a wall clock. parsing.py parses them.

    ┌ second, 0 to 59 (only in an expression of six fields; it comes first)
    │ ┌ minute, 0 to 59
    │ │ ┌ hour, 0 to 23
    │ │ │ ┌ day of month, 1 to 31, or L: the last
    │ │ │ │ ┌ month, 1 to 12, or jan to dec
    │ │ │ │ │ ┌ day of week, 0 to 7 (0 and 7 are Sunday), or sun to sat; fri#2: the second Friday; L5: the last Friday
    0 30 3 * * mon-fri

A field is `*`, values, ranges `a-b`, steps `*/n`, `a-b/n` or `a/n` (from a on), and lists of these. If day of month and
day of week are both restricted, a day that matches either matches, as in every cron. Also: @yearly, @annually,
@monthly, @weekly, @daily, @midnight, @hourly.

The ticks are computed here and not by croniter, which finds none for `0 0 1 * fri#2`, and takes up to half a
millisecond for each tick of other expressions.
"""

from __future__ import annotations

import calendar
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

SEARCHED = timedelta(days=366 * 50)
"""How far ahead a tick is searched: a fifth Friday in February comes every 28 years, or after 40 if a century year is
no leap year.
"""

LAST_OF_MONTH = 0
"""The n of an "n-th weekday" that means the last one in the month."""


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed cron expression.

    Attributes:
        text: the original text.
        seconds, minutes, hours, months: the matching values, ascending.
        days: the matching days of the month; None if the field does not restrict them.
        last_day: whether the last day of the month matches.
        weekdays: the matching days of the week, 0 is Sunday; None if the field does not restrict them.
        nth: pairs of a day of the week and the n of its n-th occurrence in the month, 0: the last.
        wildcard: whether second (of six fields), minute or hour begins with `*` or has all values. When clocks change,
            such an expression follows elapsed time, any other the wall clock. See zones.py.
    """

    text: str
    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int] | None
    last_day: bool
    months: tuple[int, ...]
    weekdays: frozenset[int] | None
    nth: frozenset[tuple[int, int]]
    wildcard: bool

    def next(self, after: datetime) -> datetime | None:
        """Return the first tick after this time, both as naive wall clock times; None if there is none."""
        if after.month in self.months and after.day in self._days_of(after.year, after.month):
            later = self._later(after.hour, after.minute, after.second)
            if later is not None:
                return datetime.combine(after.date(), later)
        day = self._next_day(after.date())
        return None if day is None else datetime.combine(day, time(self.hours[0], self.minutes[0], self.seconds[0]))

    def _later(self, hour: int, minute: int, second: int) -> time | None:
        """Return the first time of a matching day after this one."""
        if hour in self.hours:
            if minute in self.minutes and (later := _above(self.seconds, second)) is not None:
                return time(hour, minute, later)
            if (later := _above(self.minutes, minute)) is not None:
                return time(hour, later, self.seconds[0])
        later = _above(self.hours, hour)
        return None if later is None else time(later, self.minutes[0], self.seconds[0])

    def _next_day(self, after: date) -> date | None:
        last_year = min(after.year + SEARCHED.days // 366, 9998)
        year, months = after.year, [month for month in self.months if month >= after.month]
        while year <= last_year:
            for month in months:
                for day in self._days_of(year, month):
                    if (year, month, day) > (after.year, after.month, after.day):
                        return date(year, month, day)
            year, months = year + 1, list(self.months)
        return None

    def _days_of(self, year: int, month: int) -> Sequence[int]:
        first, length = calendar.monthrange(year, month)
        if self.days is None and self.weekdays is None:
            return range(1, length + 1)
        days = {day for day in self.days or () if day <= length}
        if self.last_day:
            days.add(length)
        sunday = 6 - first  # how many days after the first of the month the first Sunday is
        for weekday in self.weekdays or ():
            days.update(range(1 + (sunday + weekday) % 7, length + 1, 7))
        for weekday, number in self.nth:
            which = range(1 + (sunday + weekday) % 7, length + 1, 7)
            if number <= len(which):
                days.add(which[number - 1])  # 0: the last
        return sorted(days)


def _above(values: tuple[int, ...], value: int) -> int | None:
    place = bisect_right(values, value)
    return values[place] if place < len(values) else None
