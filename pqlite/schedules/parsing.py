"""Parses cron expressions strictly; an error says why and at which character an expression is invalid.

Expressions that the library croniter accepts but misreads are refused: ranges of one value (`jan-jan` is a whole year
to croniter) or in reverse order, steps that reach no second value (`59/15`), days that never come (30 February), names
in the wrong field, seconds at the end. `check_with_croniter` compares the result with croniter's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, NoReturn

from croniter import CroniterError, croniter

from pqlite.errors import InvalidSchedule
from pqlite.schedules.cron import LAST_OF_MONTH, Cron

_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = {
    "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6,
    "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12,
}  # fmt: skip
_WEEKDAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_ITEM = re.compile(r"(?:(?P<star>\*)|(?P<low>\w+)(?:-(?P<high>\w+))?)(?:/(?P<step>\w+))?", re.ASCII)
_NTH = re.compile(r"(?P<day>\w+)#(?P<number>\w+)", re.ASCII)
_LAST = re.compile(r"l(\d)", re.ASCII)
_LONGEST_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class _Kind(NamedTuple):
    """The kind of a field: its name, bounds and names of values."""

    name: str
    low: int
    high: int
    names: dict[str, int]


_SECOND = _Kind("second", 0, 59, {})
_MINUTE = _Kind("minute", 0, 59, {})
_HOUR = _Kind("hour", 0, 23, {})
_DAY = _Kind("day of month", 1, 31, {})
_MONTH = _Kind("month", 1, 12, _MONTHS)
_WEEKDAY = _Kind("day of week", 0, 7, _WEEKDAYS)


@lru_cache(maxsize=20_000)
def parse(text: str) -> Cron:
    """Return a parsed cron expression.

    Raises:
        InvalidSchedule: it is invalid; the message says why, and at which character (from 1).
    """
    if not isinstance(text, str):
        raise InvalidSchedule(f"A cron expression must be text, not {text!r}")
    written = _MACROS.get(text.strip().lower(), text)
    if written.strip().startswith("@"):
        hint = "; what starts with a worker belongs into the app's lifespan" if "reboot" in text else ""
        raise InvalidSchedule(f"{text!r} is no cron expression: there are {', '.join(_MACROS)}{hint}")
    fields = [_Field(text, match[0], match.start()) for match in re.finditer(r"\S+", written)]
    if len(fields) not in (5, 6):
        raise InvalidSchedule(
            f"{text!r} is no cron expression: it has {len(fields)} fields, not 5 (minute, hour, day of month, month, "
            "day of week) or 6 (second first)"
        )
    second = fields.pop(0) if len(fields) == 6 else None
    minute, hour, day, month, weekday = fields
    seconds = (0,) if second is None else second.values(_SECOND)
    minutes, hours = minute.values(_MINUTE), hour.values(_HOUR)
    days, last_day = day.days()
    months = month.values(_MONTH)
    weekdays, nth = weekday.weekdays()
    if days and not last_day and not any(number <= _LONGEST_MONTHS[m - 1] for m in months for number in days):
        day.refuse(f"day {min(days)} never comes in month {', '.join(map(str, months))}")
    clock = [(minute, minutes, 60), (hour, hours, 24)] + ([] if second is None else [(second, seconds, 60)])
    wildcard = any(field.text.startswith("*") or len(values) == every for field, values, every in clock)
    return Cron(text, seconds, minutes, hours, days, last_day, months, weekdays, nth, wildcard)


class _Field:
    """One field of an expression, with its position."""

    def __init__(self, expression: str, text: str, start: int) -> None:
        self._expression = expression
        self.text = text.lower()
        self._start = start

    def refuse(self, reason: str, item: str | None = None, offset: int = 0) -> NoReturn:
        raise InvalidSchedule(
            f"{self._expression!r} is no cron expression: {reason} "
            f"(at character {self._start + offset + 1}: {self.text if item is None else item!r})"
        )

    def values(self, kind: _Kind) -> tuple[int, ...]:
        """Return the values that match, ascending."""
        found: set[int] = set()
        for item, offset in self._items():
            found.update(self._plain(kind, item, offset))
        return tuple(sorted(found))

    def days(self) -> tuple[frozenset[int] | None, bool]:
        """Return the days of the month (None: any), and whether the last one matches."""
        found: set[int] = set()
        last = False
        for item, offset in self._items():
            if item == "l":
                last = True
            else:
                found.update(self._plain(_DAY, item, offset))
        return (None, False) if len(found) == 31 else (frozenset(found), last)

    def weekdays(self) -> tuple[frozenset[int] | None, frozenset[tuple[int, int]]]:
        """Return the days of the week (None: any), and the n-th ones."""
        found: set[int] = set()
        nth: set[tuple[int, int]] = set()
        for item, offset in self._items():
            if match := _NTH.fullmatch(item):
                number = match["number"]
                if number not in {"1", "2", "3", "4", "5"}:
                    self.refuse(f"a weekday comes 1 to 5 times a month, not {number}", item, offset)
                nth.add((self._value(_WEEKDAY, match["day"], item, offset) % 7, int(number)))
            elif match := _LAST.fullmatch(item):
                weekday = self._value(_WEEKDAY, match[1], item, offset) % 7
                nth.add((weekday, LAST_OF_MONTH))
            else:
                found.update(value % 7 for value in self._plain(_WEEKDAY, item, offset))
            if found and nth:
                self.refuse("weekdays and n-th weekdays cannot be mixed", item, offset)
        if len(found) == 7:
            return None, frozenset()
        return frozenset(found), frozenset(nth)

    def _items(self) -> Iterator[tuple[str, int]]:
        offset = 0
        items = self.text.split(",")
        for item in items:
            if not item:
                self.refuse("something is missing beside a comma", item, offset)
            if item.startswith("*") and len(items) > 1:
                self.refuse("'*' stands alone: a list with it has nothing to add", item, offset)
            yield item, offset
            offset += len(item) + 1

    def _plain(self, kind: _Kind, item: str, offset: int) -> Sequence[int]:
        match = _ITEM.fullmatch(item)
        if match is None:
            self.refuse(_unknown(kind, item), item, offset)
        high = kind.high - 1 if kind is _WEEKDAY else kind.high
        if match["star"]:
            first, last = kind.low, high
        else:
            first = self._value(kind, match["low"], item, offset)
            last = high if match["step"] else first
            if match["high"] is not None:
                last = self._value(kind, match["high"], item, offset)
                if match["high"] == "sun":
                    last = 7
                if first == last or (kind is _WEEKDAY and (first, last) == (0, 7)):
                    self.refuse(f"the range begins and ends with {match['low']}: write that alone", item, offset)
                if first > last:
                    self.refuse("the range runs backwards: write two", item, offset)
            elif match["step"] and kind is _WEEKDAY:
                self.refuse("a step needs a range here, as the week has no end: 1-5/2", item, offset)
        if match["step"] is None:
            return range(first, last + 1)
        step = self._number(match["step"], item, offset)
        if step < 1 or (step > 1 and first + step > last):
            self.refuse(f"a step of {step} from {first} reaches no second value up to {last}", item, offset)
        if first == last:
            self.refuse(f"nothing comes after {first} that a step could reach", item, offset)
        return range(first, last + 1, step)

    def _value(self, kind: _Kind, word: str, item: str, offset: int) -> int:
        if word in kind.names:
            return kind.names[word]
        if not word.isdecimal():
            self.refuse(_unknown(kind, word), item, offset)
        number = self._number(word, item, offset)
        if not kind.low <= number <= kind.high:
            self.refuse(f"{kind.name} is {kind.low} to {kind.high}, not {number}", item, offset)
        return number

    def _number(self, word: str, item: str, offset: int) -> int:
        if not word.isdecimal() or len(word) > 2:
            self.refuse(f"{word!r} is no number of one or two digits", item, offset)
        return int(word)


def _unknown(kind: _Kind, word: str) -> str:
    """Return what is wrong with a word, which other cron implementations may accept."""
    letter = word.rstrip("0123456789-()")
    if letter in {"h", "r"}:
        return "the random times of Jenkins and croniter are not taken; jitter= spreads the jobs of one tick"
    if word.endswith("w") and kind is _DAY:
        return "the nearest working day (W) is not supported"
    if "?" in word:
        return "write '*' instead of '?'"
    if word.startswith("l"):
        return "'L' is the last day of the month in the day of month, and L0 to L7 the last weekday in the day of week"
    names = f", or {', '.join(kind.names)}" if kind.names else ""
    return f"{kind.name} is {kind.low} to {kind.high}{names}"


def check_with_croniter(cron: Cron) -> None:
    """Check that croniter reads the expression in the same way, so that expressions copied from elsewhere keep their
    meaning.

    Raises:
        InvalidSchedule: it does not.
    """
    try:
        fields, nth = croniter.expand(cron.text.strip(), second_at_beginning=True)
    except CroniterError as error:
        raise InvalidSchedule(f"{cron.text!r} is no cron expression: {error}") from None
    # croniter keeps the seconds at the end, and has none where there are five fields.
    read = [_expanded(field, low, high) for field, (low, high) in zip(fields, _BOUNDS, strict=False)]
    ours = [
        set(cron.minutes),
        set(cron.hours),
        set(range(1, 32)) if cron.days is None else set(cron.days) | ({"l"} if cron.last_day else set()),
        set(cron.months),
        (set(range(7)) if cron.weekdays is None else set(cron.weekdays)) | {weekday for weekday, _ in cron.nth},
        set(cron.seconds),
    ]
    theirs = {(weekday % 7, LAST_OF_MONTH if n == "l" else n) for weekday, ns in nth.items() for n in ns}
    if read != ours[: len(read)] or theirs != set(cron.nth):
        raise InvalidSchedule(f"{cron.text!r} can be read in two ways: write it with plain values")


_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6), (0, 59))


def _expanded(field: Sequence[int | str], low: int, high: int) -> set[int | str]:
    return set(range(low, high + 1)) if list(field) == ["*"] else set(field)
