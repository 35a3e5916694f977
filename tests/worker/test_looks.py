"""The scout, call by call and by a clock of the test's own: what is looked at, and when."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pqlite import Job, JobStatus
from pqlite.store.engine import Claimed, Head, Lane, Mark
from pqlite.worker import scout
from pqlite.worker.lanes import MIN_CLAIMS, RATION, SLOW, Asked, Lanes
from pqlite.worker.scout import DEADLINE, LOOK_BACK, MAX_DEADLINE, Scout

LANE = Lane("q", "t", 0)
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def at(second: int, id: int = 1) -> Mark:
    return Mark(T0 + timedelta(seconds=second), id)


def head(mark: Mark) -> Head:
    return Head(LANE, mark, -1.0)


class Watch:
    """A scout, its clock, and what it looks at. A look takes so many seconds, and fails if there is a failure."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.takes = {"sweep": 0.0, "back": 0.0}
        self.failure: Exception | None = None
        self.heads: list[Head] = []
        self.looks: list[tuple[float, str]] = []
        self.asked: list[Asked] = []
        self.patience: list[float] = []
        self.found = 0
        self.lanes = Lanes()
        self.scout = Scout(lanes=self.lanes, scan=self._look, found=self._found)
        self.claim(at(100), times=MIN_CLAIMS)

    def monotonic(self) -> float:
        return self.now

    def claim(self, mark: Mark, times: int = 1) -> None:
        """Claim a job at this place, so that the lane's watermark is there."""
        fields: dict[str, Any] = dict.fromkeys(Job.__dataclass_fields__)
        job = Job(**fields | {"id": mark.id, "run_after": mark.run_after, "status": JobStatus.RUNNING})
        for _ in range(times):
            self.lanes.found([head(mark)])
            self.lanes.claimed(self.lanes.to_claim(), 1, [Claimed(LANE, [job])])

    async def _look(self, known: Asked, deadline: float) -> list[Head]:
        kind = "back" if known else "sweep"
        self.looks.append((self.now - 1000.0, kind))
        self.asked.append(known)
        self.patience.append(deadline)
        self.now += self.takes[kind]
        if self.failure is not None:
            raise self.failure
        return self.heads

    def _found(self) -> None:
        self.found += 1

    async def watch(self, seconds: float, *, news: bool = False) -> list[tuple[float, str]]:
        """Let it look for so long, with jobs that come and go all the time if there are news; return its looks."""
        end = self.now + seconds
        while self.now < end:
            pause = await self.scout.step()
            if news and self.scout.request():
                continue  # it is woken
            self.now += pause
        looks, self.looks = self.looks, []
        return [(round(when, 1), what) for when, what in looks]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr(scout, "time", watch)
    return watch


async def test_while_jobs_come_and_go_it_looks_back_every_second_and_sweeps_every_five(watch: Watch) -> None:
    looks = await watch.watch(11, news=True)

    assert looks == [(n, what) for n in range(11) for what in (["back"] if n % 5 else ["sweep", "back"])]


async def test_an_idle_scout_looks_less_and_less_often_and_sweeps_every_ten_seconds(watch: Watch) -> None:
    looks = await watch.watch(60)

    assert looks[:5] == [(0, "sweep"), (1, "back"), (3, "back"), (5, "sweep"), (13, "sweep")]
    assert looks[5:] == [(n, "sweep") for n in (23, 33, 43, 53)]


async def test_after_a_long_rest_the_first_new_job_makes_it_look_at_once_and_often(watch: Watch) -> None:
    await watch.watch(60)
    began = watch.now - 1000
    assert watch.scout.request()
    watch.now += 0.1

    looks = await watch.watch(4, news=True)
    assert [(round(when - began, 1), what) for when, what in looks] == [
        (0.1, "sweep"), (0.1, "back"), (1.1, "back"), (2.1, "back"), (3.1, "back")
    ]  # fmt: skip


async def test_it_is_woken_for_the_first_news_and_for_the_first_that_may_be_anywhere(watch: Watch) -> None:
    await watch.scout.step()

    told = [watch.scout.request(everywhere=everywhere) for everywhere in (False, False, True, True, False)]
    assert told == [True, False, True, False, False]


async def test_a_job_given_back_in_any_lane_causes_one_sweep_at_once(watch: Watch) -> None:
    await watch.watch(3, news=True)
    watch.scout.request(everywhere=True)
    watch.scout.request()

    looks = await watch.watch(3, news=True)
    assert [what for _, what in looks] == ["sweep", "back", "back", "back"]


async def test_an_expensive_sweep_is_postponed_and_recent_jobs_are_looked_for_meanwhile(watch: Watch) -> None:
    watch.takes["sweep"] = 0.1
    await watch.watch(5.5, news=True)
    watch.scout.request(everywhere=True)
    looks = await watch.watch(5, news=True)

    earliest = 5.2 + 0.1 * RATION
    assert [when for when, what in looks if what == "sweep"] == [pytest.approx(earliest, abs=0.11)]
    assert {what for when, what in looks if when < earliest - 0.1} == {"back"}


async def test_expensive_looks_take_a_twentieth_of_the_time(watch: Watch) -> None:
    watch.takes = {"sweep": 1.0, "back": 1.0}
    looks = await watch.watch(400, news=True)

    for kind in ("sweep", "back"):
        assert 17 <= sum(what == kind for _, what in looks) <= 21


@pytest.mark.parametrize("everywhere", [False, True])
async def test_a_look_that_failed_is_made_again_and_still_for_the_same_reason(watch: Watch, everywhere: bool) -> None:
    await watch.watch(3)
    watch.scout.request(everywhere=everywhere)
    watch.failure = ConnectionResetError()
    watch.now += 0.9
    with pytest.raises(ConnectionResetError):
        await watch.scout.step()

    assert not watch.scout.request(everywhere=everywhere)


async def test_a_look_that_was_not_answered_is_given_more_time_and_rationed(watch: Watch) -> None:
    watch.failure, watch.takes["sweep"] = TimeoutError(), 1.0
    for _ in range(6):
        watch.now += RATION * 10
        with pytest.raises(TimeoutError):
            await watch.scout.step()
        assert watch.scout._sweep.rest == RATION
    watch.failure = None
    for _ in range(2):
        watch.now += RATION * 10
        await watch.scout.step()

    assert watch.patience == [DEADLINE * n for n in (1, 2, 4, 8, 12, 12, 12, 1)]
    assert watch.patience[-2] == MAX_DEADLINE


async def test_a_look_back_begins_a_little_before_the_watermark_and_a_sweep_at_the_beginning(watch: Watch) -> None:
    await watch.watch(2)

    assert watch.asked == [[], [(LANE, Mark(at(100).run_after - LOOK_BACK, 0))]]


async def test_the_claimer_is_woken_for_what_it_did_not_know_of_and_for_nothing_else(watch: Watch) -> None:
    watch.lanes.claimed([(LANE, at(100))], 1, [])  # the lane runs dry
    await watch.scout.step()
    assert watch.found == 0

    watch.heads = [head(at(50))]
    watch.now += 1
    await watch.scout.step()
    assert watch.found == 1
    assert watch.lanes.marks[LANE] < at(50)

    watch.now += 5
    await watch.scout.step()
    assert watch.found == 1


async def test_what_was_claimed_during_a_look_does_not_rewind_the_lane(watch: Watch) -> None:
    look = watch.scout._scan

    async def and_claim(known: Asked, deadline: float) -> list[Head]:
        heads = await look(known, deadline)
        watch.claim(at(120))
        return heads

    watch.heads = [head(at(110))]
    watch.scout._scan = and_claim
    await watch.scout.step()

    assert (watch.found, watch.lanes.marks[LANE]) == (0, at(120))


@pytest.mark.parametrize("kind", ["sweep", "back"])
async def test_after_a_look_that_took_long_the_watermark_moves_to_what_it_found(watch: Watch, kind: str) -> None:
    if kind == "back":
        await watch.scout.step()
        watch.now += 1
    watch.heads, watch.takes[kind] = [head(at(110, 7))], 2 * SLOW
    await watch.scout.step()

    assert watch.looks[-1][1] == kind
    assert watch.lanes.marks[LANE] == at(110, 6)
