"""Compares ticks with the reference's: `python -m tests.schedules.agreement --expressions 2000 --years 10`."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from pqlite.schedules import timing
from pqlite.schedules.timing import ticks
from tests.schedules.reference import DAY, ZONES, Expression, by_day, by_minute, expression_by_chance

START = datetime(2017, 1, 1, tzinfo=UTC)
OFTEN = 2
"""An expression that comes more often on a day is compared on days on which clocks change, and on some others."""


def disagreement(expression: Expression, zone: str, years: int, rng: random.Random, *, minutely: bool) -> str | None:
    """Return where the ticks differ from the reference's within so many years, None if nowhere."""
    end = datetime(START.year + years, 1, 1, tzinfo=UTC)
    place = ZoneInfo(zone)
    when = timing(expression.text, None, anchor=None, timezone=zone)
    reference = by_minute if minutely else by_day
    for after, until in _spans(expression, place, end, rng):
        expected = list(reference(expression, place, after, until))
        found = []
        for tick in ticks(when, after):
            if tick > until:
                break
            found.append(tick)
        if found != expected:
            wrong = min(set(found) ^ set(expected))
            return f"{expression.text!r} in {zone}: {wrong} is only {'ours' if wrong in found else 'the reference'}'s"
    return None


def _spans(
    expression: Expression, place: ZoneInfo, end: datetime, rng: random.Random
) -> Iterator[tuple[datetime, datetime]]:
    if len(expression.minutes) * len(expression.hours) <= OFTEN:
        yield START, end
        return
    offset = START.astimezone(place).utcoffset()
    for number in range(1, (end - START).days):
        day = START + number * DAY
        before, offset = offset, day.astimezone(place).utcoffset()
        if offset != before:
            yield day - 2 * DAY, day + DAY
        elif rng.random() < 0.002:
            yield day, day + DAY


def compare(count: int, years: int, seed: int, *, minutely: int = 0) -> list[str]:
    """Compare so many expressions, the first `minutely` of them minute by minute; return the disagreements."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        expression = expression_by_chance(rng)
        zone = ZONES[number % len(ZONES)]
        found.append(disagreement(expression, zone, years, rng, minutely=number < minutely))
    return [each for each in found if each is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--expressions", type=int, default=2000)
    parser.add_argument("--years", type=int, default=10)
    parser.add_argument("--minutely", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    found = compare(options.expressions, options.years, options.seed, minutely=options.minutely)
    print("\n".join(found[:20]))
    print(f"{options.expressions} expressions in {len(ZONES)} zones over {options.years} years: {len(found)} differ")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
