"""Which lanes a worker claims from, in what order, and from where on. Pure: no clock, no database.

A lane's *watermark* is the last place the worker claimed from. The next claim starts there, so it steps over no index
entry of a job that is claimed already, even where vacuum may not remove it. Jobs can still appear behind it (a commit
that was late, a job given back): a look that sees one rewinds the lane. Correctness never depends on the mark.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice

from pqlite.store.engine import Claimed, Head, Lane, Mark

BEGINNING = Mark(datetime(1, 1, 1, tzinfo=UTC), 0)
MOST = 200
"""Most lanes asked in one claim; the others have their turn when these run dry."""

HOPEFUL = 20
"""Most lanes asked after a wake-up, before anybody has looked where the job is."""

RATION = 20
"""Each way of looking for jobs takes a twentieth of the time at most, however many dead index entries it meets; a
single slow look among quick ones does not count.
"""

REMEMBERED = 5000
"""Most lanes whose watermark is kept."""

WORTH_KNOWING = 3
"""After so many claims that got something, a look begins at a lane's watermark. Before, there are so few dead index
entries that a range of its own would cost more than stepping over them: there may be many lanes with a job each.
"""

SLOW = 0.1
"""A claim or a look that takes longer, in seconds, has met very many jobs that it may not take: payloads that are too
new for this worker have no range of their own in the index.
"""

Asked = Sequence[tuple[Lane, Mark]]


def place_of(head: Head) -> tuple[Lane, Mark]:
    """Return where a claim begins that is to get a lane's first job."""
    return head.lane, Mark(head.mark.run_after, head.mark.id - 1)


class Lanes:
    """The lanes known to have due jobs, and a watermark for every lane found lately."""

    def __init__(self) -> None:
        # By priority; of one priority, the lane that was served longest ago comes first.
        self._active: dict[int, OrderedDict[Lane, None]] = {}
        self._marks: OrderedDict[Lane, Mark] = OrderedDict()
        self._claims: dict[Lane, int] = {}
        self._once: set[Lane] = set()
        self._hopeless: set[Lane] = set()

    @property
    def any(self) -> bool:
        """Return whether a lane is worth asking."""
        return bool(self._active)

    def active(self, lane: Lane) -> bool:
        """Return whether a lane is worth asking."""
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
        """Take in what a look found: due lanes become active; one with a job behind its mark is rewound. Return
        whether there is anything new.

        `before` are the marks when the look began, if claims went on meanwhile: what was then ahead of a mark, and is
        behind it now, has been claimed. After a look that took long (`seconds`) the marks move on to what it found: a
        claim shall not go the same way again.
        """
        news = False
        for head in heads:
            if head.due_in > 0:
                continue
            lane, just_before = place_of(head)
            mark = self._marks.get(lane)
            behind = mark is not None and just_before < mark
            if behind and before is not None and just_before >= before.get(lane, BEGINNING):
                continue
            news = news or behind or not self.active(lane)
            self._activate(lane)
            self._hopeless.discard(lane)
            if behind:
                self._marks[lane] = just_before
            elif mark is None or seconds > SLOW:
                self._advance(lane, just_before)
        return news

    def hope(self) -> None:
        """Make the lanes active that jobs came from lately: there may be new ones."""
        hopeful = (lane for lane in reversed(self._marks) if lane not in self._hopeless)
        for lane in islice(hopeful, HOPEFUL):
            self._activate(lane)

    def ahead_of(self, now: datetime) -> bool:
        """Return whether a watermark is in the future: the server's clock was set back."""
        return any(mark.run_after > now for mark in self._marks.values())

    def _advance(self, lane: Lane, mark: Mark) -> None:
        """Move a lane's mark on, and the lane behind those that were served before it."""
        before = self._marks.pop(lane, BEGINNING)
        if len(self._marks) >= REMEMBERED:
            # The one that was not served for the longest; a sweep finds its jobs if it has any.
            oldest, _ = self._marks.popitem(last=False)
            self._once.discard(oldest)
            self._hopeless.discard(oldest)
            self._claims.pop(oldest, None)
        self._marks[lane] = max(before, mark)

    def ask(self, *, prefetching: bool = False) -> Asked:
        """Return the lanes to claim from, each with where to begin: best priority first, then least recently served.

        `prefetching` leaves out those whose jobs may start only once: they are not claimed to wait.
        """
        lanes = (lane for priority in sorted(self._active, reverse=True) for lane in self._active[priority])
        if prefetching:
            lanes = (lane for lane in lanes if lane not in self._once)
        return [(lane, self._marks.get(lane, BEGINNING)) for lane in islice(lanes, MOST)]

    def any_once(self, asked: Asked) -> bool:
        """Return whether a lane is asked whose jobs, when last seen, could start only once."""
        return not self._once.isdisjoint(lane for lane, _ in asked)

    def claimed(self, asked: Asked, limit: int, claimed: Iterable[Claimed], *, seconds: float = 0.0) -> None:
        """Take in the answer to a claim of `limit` jobs: marks move on, lanes that ran dry are forgotten.

        Not so where the mark was rewound while the claim was under way: there is a job that it did not see. If it took
        long (`seconds`) and got nothing from a lane, only a look gives new hope for that: looks are rationed.
        """
        counts: dict[Lane, int] = {}
        began = dict(asked)
        for lane, jobs in claimed:
            if lane is None:  # suspects: in no lane's order
                limit -= len(jobs)
                continue
            last = jobs[-1]
            counts[lane] = len(jobs)
            if self._marks.get(lane, BEGINNING) >= began[lane]:
                self._advance(lane, Mark(last.run_after, last.id))
            if lane in self._marks:
                self._claims[lane] = self._claims.get(lane, 0) + 1
            if last.max_attempts == 1:
                self._once.add(lane)
            else:
                self._once.discard(lane)
        for lane, _ in asked:
            limit -= counts.get(lane, 0)
            if limit > 0 and self._marks.get(lane, BEGINNING) >= began[lane]:
                self._drop(lane)
                if seconds > SLOW and lane not in counts and lane in self._marks:
                    self._hopeless.add(lane)
            elif lane in counts and self.active(lane):
                self._active[lane.priority].move_to_end(lane)

    def states(self) -> Iterable[tuple[Lane, Mark, bool]]:
        """Yield every lane with its watermark, and whether it is active."""
        for lane, mark in self._marks.items():
            yield lane, mark, self.active(lane)

    def known(self, back: timedelta = timedelta(0)) -> Asked:
        """Return the lanes that a look need not begin at the beginning of, each with its watermark, or with a place so
        far before it.
        """
        return [
            (lane, _back(self._marks[lane], back)) for lane, claims in self._claims.items() if claims >= WORTH_KNOWING
        ]


def _back(mark: Mark, back: timedelta) -> Mark:
    if not back:
        return mark
    try:
        return Mark(mark.run_after - back, 0)
    except OverflowError:
        return BEGINNING
