"""The lanes that a worker claims from, their order, and where each claim starts. No clock, no database.

A lane's *watermark* is the position of the last job that the worker claimed from it. The next claim starts there, so
that it skips the index entries of jobs that are claimed already, which vacuum may not have removed. Jobs can still
appear behind the watermark (a late commit, a job given back): a *scan*, a query for lanes with due jobs, finds them and
moves the watermark back. Correctness does not depend on the watermarks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice

from pqlite.store.engine import Claimed, Head, Lane, Mark

BEGINNING = Mark(datetime(1, 1, 1, tzinfo=UTC), 0)
MAX_LANES = 200
"""Most lanes in one claim; the others follow when these are empty."""

MAX_RECENT = 20
"""Most lanes claimed from after a wake-up without a scan before."""

RATION = 20
"""Each kind of scan takes at most a twentieth of the time, even if dead index entries make it slow; a single slow scan
among fast ones does not count.
"""

MAX_MARKS = 5000
"""Most lanes whose watermarks are kept."""

MIN_CLAIMS = 3
"""After so many successful claims from a lane, a scan starts at its watermark. With fewer, the lane has so few dead
index entries that a range of its own would cost more than skipping them: there may be many lanes with one job each.
"""

SLOW = 0.1
"""A claim or scan that takes longer, in seconds, has met very many jobs that it may not claim: jobs whose payload
version is too new for this worker are in the same index range.
"""

Asked = Sequence[tuple[Lane, Mark]]


def place_of(head: Head) -> tuple[Lane, Mark]:
    """Return the position from which a claim gets the lane's first job."""
    return head.lane, Mark(head.mark.run_after, head.mark.id - 1)


class Lanes:
    """The active lanes, which are expected to have due jobs, and the watermarks of recently used lanes."""

    def __init__(self) -> None:
        # By priority; within a priority, the least recently served lane comes first.
        self._active: dict[int, OrderedDict[Lane, None]] = {}
        self._marks: OrderedDict[Lane, Mark] = OrderedDict()
        self._claims: dict[Lane, int] = {}
        self._single_start: set[Lane] = set()
        self._slow_and_empty: set[Lane] = set()

    @property
    def any(self) -> bool:
        """Return whether any lane is active."""
        return bool(self._active)

    def active(self, lane: Lane) -> bool:
        """Return whether a lane is active: whether to claim from it."""
        return lane in self._active.get(lane.priority, ())

    def _activate(self, lane: Lane) -> None:
        self._active.setdefault(lane.priority, OrderedDict()).setdefault(lane)

    def _drop(self, lane: Lane) -> None:
        if (peers := self._active.get(lane.priority)) is not None:
            peers.pop(lane, None)
            if not peers:
                del self._active[lane.priority]

    @property
    def marks(self) -> dict[Lane, Mark]:
        """Return a copy of the watermarks."""
        return dict(self._marks)

    def found(self, heads: Iterable[Head], before: Mapping[Lane, Mark] | None = None, *, seconds: float = 0.0) -> bool:
        """Record the result of a scan: lanes with due jobs become active, and a lane with a job behind its watermark is
        moved back. Return whether anything changed.

        `before` are the watermarks when the scan began, if jobs were claimed meanwhile: a job that was ahead of its
        watermark then, and is behind it now, has been claimed. After a slow scan (`seconds`) the watermarks advance to
        the jobs found, so that the next claim does not repeat its work.
        """
        changed = False
        for head in heads:
            if head.due_in > 0:
                continue
            lane, just_before = place_of(head)
            mark = self._marks.get(lane)
            behind = mark is not None and just_before < mark
            if behind and before is not None and just_before >= before.get(lane, BEGINNING):
                continue
            changed = changed or behind or not self.active(lane)
            self._activate(lane)
            self._slow_and_empty.discard(lane)
            if behind:
                self._marks[lane] = just_before
            elif mark is None or seconds > SLOW:
                self._advance(lane, just_before)
        return changed

    def reactivate_recent(self) -> None:
        """Make the most recently served lanes active: they may have new jobs."""
        recent = (lane for lane in reversed(self._marks) if lane not in self._slow_and_empty)
        for lane in islice(recent, MAX_RECENT):
            self._activate(lane)

    def ahead_of(self, now: datetime) -> bool:
        """Return whether a watermark is in the future: the server's clock was set back."""
        return any(mark.run_after > now for mark in self._marks.values())

    def _advance(self, lane: Lane, mark: Mark) -> None:
        """Advance a lane's watermark, and make it the most recently served lane."""
        before = self._marks.pop(lane, BEGINNING)
        if len(self._marks) >= MAX_MARKS:
            # The least recently served lane; a sweep finds its jobs if it has any.
            oldest, _ = self._marks.popitem(last=False)
            self._single_start.discard(oldest)
            self._slow_and_empty.discard(oldest)
            self._claims.pop(oldest, None)
        self._marks[lane] = max(before, mark)

    def to_claim(self, *, prefetching: bool = False) -> Asked:
        """Return the lanes to claim from with their watermarks: highest priority first, then least recently served.

        `prefetching` leaves out lanes whose jobs have max_attempts=1: those are not prefetched.
        """
        lanes = (lane for priority in sorted(self._active, reverse=True) for lane in self._active[priority])
        if prefetching:
            lanes = (lane for lane in lanes if lane not in self._single_start)
        return [(lane, self._marks.get(lane, BEGINNING)) for lane in islice(lanes, MAX_LANES)]

    def any_single_start(self, asked: Asked) -> bool:
        """Return whether the last job claimed from one of these lanes had max_attempts=1."""
        return not self._single_start.isdisjoint(lane for lane, _ in asked)

    def claimed(self, asked: Asked, limit: int, claimed: Iterable[Claimed], *, seconds: float = 0.0) -> None:
        """Record the result of a claim of `limit` jobs: watermarks advance, and empty lanes become inactive.

        A lane whose watermark was moved back during the claim is left as it is: it has a job that the claim did not
        see. A lane that a slow claim (`seconds`) found empty becomes active again only by a scan, and scans are
        rationed.
        """
        counts: dict[Lane, int] = {}
        began = dict(asked)
        for lane, jobs in claimed:
            if lane is None:  # suspects, which are not ordered by lane
                limit -= len(jobs)
                continue
            last = jobs[-1]
            counts[lane] = len(jobs)
            if self._marks.get(lane, BEGINNING) >= began[lane]:
                self._advance(lane, Mark(last.run_after, last.id))
            if lane in self._marks:
                self._claims[lane] = self._claims.get(lane, 0) + 1
            if last.max_attempts == 1:
                self._single_start.add(lane)
            else:
                self._single_start.discard(lane)
        for lane, _ in asked:
            limit -= counts.get(lane, 0)
            if limit > 0 and self._marks.get(lane, BEGINNING) >= began[lane]:
                self._drop(lane)
                if seconds > SLOW and lane not in counts and lane in self._marks:
                    self._slow_and_empty.add(lane)
            elif lane in counts and self.active(lane):
                self._active[lane.priority].move_to_end(lane)

    def states(self) -> Iterable[tuple[Lane, Mark, bool]]:
        """Yield every lane with its watermark, and whether it is active."""
        for lane, mark in self._marks.items():
            yield lane, mark, self.active(lane)

    def scan_starts(self, back: timedelta = timedelta(0)) -> Asked:
        """Return the lanes that a scan need not read from their beginning, each with the position to start at: its
        watermark, or a position that much earlier.
        """
        return [(lane, _back(self._marks[lane], back)) for lane, claims in self._claims.items() if claims >= MIN_CLAIMS]


def _back(mark: Mark, back: timedelta) -> Mark:
    if not back:
        return mark
    try:
        return Mark(mark.run_after - back, 0)
    except OverflowError:
        return BEGINNING
