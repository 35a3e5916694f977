"""Decides for a schedule which slots fire now, which were missed, and when the next one is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from pqlite.schedules.timing import Timing, ticks

MISSED_AFTER = timedelta(seconds=30)
"""With missed="skip", a slot that no worker fired within this time does not fire any more."""

MAX_MISSED = 1000
"""With missed="all", how many slots fire at most after a downtime: the latest."""

CHUNK = 100
"""How many of them fire in one transaction."""

COUNTED = 100
"""Missed slots are counted up to this number, which then means "100 or more"."""

_WINDOW = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with a schedule now.

    Attributes:
        slots: the slots to fire, in this order.
        missed: how many slots before them are skipped.
        through: slots up to this time are handled by this plan.
        next_at: when the next slot is; None: never.
    """

    slots: tuple[datetime, ...]
    missed: int
    through: datetime
    next_at: datetime | None


def plan(when: Timing, *, missed: str, handled_through: datetime, now: datetime, held: bool = False) -> Plan:
    """Return what to do with a schedule whose slots up to `handled_through` have been handled.

    Args:
        missed: "latest": only the latest of the due slots fires; "skip": only if it is not late; "all": all of them.
        held: the slots waited for a job (overlap="queue"), so that none of them was missed.
    """
    after = max(handled_through, now)
    if missed == "all" or held:
        due = _latest(when, handled_through, now, MAX_MISSED + COUNTED)
        skipped, fired = due[:-MAX_MISSED], due[-MAX_MISSED:]
        rest = fired[CHUNK:]
        fired = fired[:CHUNK]
        next_at = rest[0] if rest else when.next(after)
        through = fired[-1] if fired else handled_through
        return Plan(tuple(fired), len(skipped), through, next_at)
    due = _latest(when, handled_through, now, 1 + COUNTED)
    fired = due[-1:]
    if missed == "skip" and fired and now - fired[0] > MISSED_AFTER:
        fired = []
    through = due[-1] if due else handled_through
    return Plan(tuple(fired), len(due) - len(fired), through, when.next(after))


def _latest(when: Timing, after: datetime, until: datetime, count: int) -> Sequence[datetime]:
    """Return the latest slots in a period, at most `count`, ascending. A long period is searched from its end."""
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
