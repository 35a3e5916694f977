"""What is to be done about a schedule now: which slots fire, which were missed, and when to look again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from pqlite.schedules.timing import Timing, ticks

MISSED_AFTER = timedelta(seconds=30)
"""With missed="skip", a slot that no worker fired within this time does not fire any more."""

MOST = 1000
"""With missed="all", how many slots fire at most after a downtime: the latest."""

CHUNK = 100
"""How many of them fire in one transaction."""

COUNTED = 100
"""Up to so many missed slots are counted; "100" then means "100 or more"."""

_WINDOW = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    Attributes:
        slots: fire these, in this order.
        missed: how many slots before them are given up.
        through: everything up to here is dealt with by this plan.
        next_at: when there will be something to do; None: never.
    """

    slots: tuple[datetime, ...]
    missed: int
    through: datetime
    next_at: datetime | None


def plan(when: Timing, *, missed: str, handled_through: datetime, now: datetime, held: bool = False) -> Plan:
    """Return what to do about a schedule whose slots up to `handled_through` have been dealt with.

    Args:
        missed: "latest": of several that are due only the latest fires; "skip": nor does that if it is late; "all".
        held: its slots waited for a job (overlap="queue"): then none of them was missed.
    """
    after = max(handled_through, now)
    if missed == "all" or held:
        due = _latest(when, handled_through, now, MOST + COUNTED)
        given_up, fired = due[:-MOST], due[-MOST:]
        rest = fired[CHUNK:]
        fired = fired[:CHUNK]
        next_at = rest[0] if rest else when.next(after)
        through = fired[-1] if fired else handled_through
        return Plan(tuple(fired), len(given_up), through, next_at)
    due = _latest(when, handled_through, now, 1 + COUNTED)
    fired = due[-1:]
    if missed == "skip" and fired and now - fired[0] > MISSED_AFTER:
        fired = []
    through = due[-1] if due else handled_through
    return Plan(tuple(fired), len(due) - len(fired), through, when.next(after))


def _latest(when: Timing, after: datetime, until: datetime, count: int) -> Sequence[datetime]:
    """Return the latest slots of a time, at most so many, ascending. A long time is not walked from its beginning."""
    window = _WINDOW
    while True:
        start = max(after, until - window)
        found: list[datetime] = []
        for tick in ticks(when, start):
            if tick > until:
                break
            found.append(tick)
        if start == after or len(found) >= count:
            return found[-count:]
        window *= 4


def next_ticks(when: Timing, count: int, after: datetime) -> list[datetime]:
    """Return the next slots after a time."""
    return list(islice(ticks(when, after), count))
