"""Which lanes are asked, in what order, from where on."""

from datetime import UTC, datetime, timedelta
from typing import Any

from pqlite import Job, JobStatus
from pqlite.store.engine import Claimed, Head, Lane, Mark
from pqlite.worker.lanes import BEGINNING, MAX_LANES, MAX_MARKS, MAX_RECENT, MIN_CLAIMS, SLOW, Lanes

T0 = datetime(2026, 1, 1, tzinfo=UTC)
A, B, HIGH = Lane("q", "a", 0), Lane("q", "b", 0), Lane("q", "a", 9)


def at(second: int, id: int = 1) -> Mark:
    return Mark(T0 + timedelta(seconds=second), id)


def head(lane: Lane, mark: Mark = BEGINNING, due_in: float = -1.0) -> Head:
    return Head(lane, mark, due_in)


def job(lane: Lane, mark: Mark) -> Job:
    fields: dict[str, Any] = dict.fromkeys(Job.__dataclass_fields__)
    fields |= {"id": mark.id, "run_after": mark.run_after, "queue": lane.queue, "status": JobStatus.RUNNING}
    return Job(**fields)


def lanes_with(*lanes: Lane) -> Lanes:
    found = Lanes()
    found.found([head(lane, at(0)) for lane in lanes])
    return found


def test_the_best_priority_is_asked_first() -> None:
    assert [lane for lane, _ in lanes_with(A, HIGH, B).to_claim()] == [HIGH, A, B]


def test_a_lane_whose_first_job_is_not_due_is_not_asked() -> None:
    lanes = Lanes()
    lanes.found([head(A, at(0), due_in=0.5)])

    assert not lanes.any


def test_the_next_claim_begins_behind_the_last_job_claimed() -> None:
    lanes = lanes_with(A)
    lanes.claimed(lanes.to_claim(), 2, [Claimed(A, [job(A, at(5, 2)), job(A, at(5, 3))])])

    assert lanes.to_claim() == [(A, at(5, 3))]


def test_a_lane_that_gave_less_than_was_asked_is_dropped() -> None:
    lanes = lanes_with(A, B)
    lanes.claimed(lanes.to_claim(), 3, [Claimed(A, [job(A, at(1))]), Claimed(B, [job(B, at(1)), job(B, at(2))])])

    assert [lane for lane, _ in lanes.to_claim()] == [B]


def test_a_lane_that_was_not_reached_is_kept() -> None:
    lanes = lanes_with(A, B)
    lanes.claimed(lanes.to_claim(), 1, [Claimed(A, [job(A, at(1))])])

    assert {lane for lane, _ in lanes.to_claim()} == {A, B}


def test_lanes_of_one_priority_take_turns() -> None:
    lanes = lanes_with(A, B)
    first = lanes.to_claim()[0][0]
    lanes.claimed(lanes.to_claim(), 1, [Claimed(first, [job(first, at(1))])])

    assert lanes.to_claim()[0][0] != first


def test_a_job_found_behind_the_mark_rewinds_its_lane() -> None:
    lanes = lanes_with(A)
    lanes.claimed(lanes.to_claim(), 1, [Claimed(A, [job(A, at(5, 9))])])
    lanes.found([head(A, at(3, 4))])

    [(_, mark)] = lanes.to_claim()
    assert mark < at(3, 4)


def test_a_job_found_beyond_the_mark_leaves_it_alone() -> None:
    lanes = lanes_with(A)
    lanes.claimed(lanes.to_claim(), 1, [Claimed(A, [job(A, at(5, 9))])])
    lanes.found([head(A, at(5, 10))])

    assert lanes.to_claim() == [(A, at(5, 9))]


def test_a_job_found_beyond_the_mark_after_a_long_way_moves_it_there() -> None:
    lanes = lanes_with(A)
    lanes.claimed(lanes.to_claim(), 1, [Claimed(A, [job(A, at(5, 9))])])
    lanes.found([head(A, at(7, 10))], seconds=2 * SLOW)

    assert lanes.to_claim() == [(A, at(7, 9))]


def test_a_lane_that_was_asked_for_long_and_in_vain_has_no_hope_until_a_look_gives_it() -> None:
    lanes = lanes_with(A, B)
    lanes.claimed(lanes.to_claim(), 9, [Claimed(B, [job(B, at(1))])], seconds=2 * SLOW)

    lanes.reactivate_recent()
    assert [lane for lane, _ in lanes.to_claim()] == [B]

    lanes.found([head(A, at(2))])
    lanes.claimed(lanes.to_claim(), 9, [], seconds=SLOW / 2)
    lanes.reactivate_recent()
    assert {lane for lane, _ in lanes.to_claim()} == {A, B}


def test_a_suspect_moves_no_mark_and_takes_a_place() -> None:
    lanes = lanes_with(A, B)
    lanes.claimed(lanes.to_claim(), 2, [Claimed(None, [job(A, at(9))]), Claimed(A, [job(A, at(1))])])

    assert {lane for lane, _ in lanes.to_claim()} == {A, B}
    assert dict(lanes.to_claim())[A] == at(1)


def test_a_thousand_lanes_have_their_turns() -> None:
    many = [Lane("q", f"t{i}", 0) for i in range(1000)]
    lanes = lanes_with(*many)
    served: set[Lane] = set()
    for _ in range(1000):
        asked = lanes.to_claim()
        assert len(asked) == MAX_LANES
        lanes.claimed(asked, 1, [Claimed(asked[0][0], [job(asked[0][0], at(1))])])
        served.add(asked[0][0])

    assert served == set(many)


def test_a_lane_is_kept_while_only_the_waiting_room_was_not_filled() -> None:
    lanes = lanes_with(A, B)
    lanes.claimed(lanes.to_claim(), 1, [Claimed(A, [job(A, at(1))])])
    lanes.claimed(lanes.to_claim(), 0, [])

    assert {lane for lane, _ in lanes.to_claim()} == {A, B}


def test_a_lane_of_jobs_that_start_only_once_is_not_asked_for_jobs_that_would_wait() -> None:
    lanes = lanes_with(A, B)
    once = job(A, at(1))
    once.max_attempts = 1
    lanes.claimed(lanes.to_claim(), 1, [Claimed(A, [once])])

    assert [lane for lane, _ in lanes.to_claim(prefetching=True)] == [B]
    assert lanes.any_single_start(lanes.to_claim())
    lanes.claimed(lanes.to_claim(), 1, [Claimed(A, [job(A, at(2))])])
    assert [lane for lane, _ in lanes.to_claim(prefetching=True)] == [A]


def test_a_look_back_begins_before_the_watermark_and_a_plain_look_at_it() -> None:
    lanes = lanes_with(A)
    for _ in range(MIN_CLAIMS):
        lanes.claimed(lanes.to_claim(), 1, [Claimed(A, [job(A, at(10, 7))])])

    assert list(lanes.scan_starts()) == [(A, at(10, 7))]
    assert list(lanes.scan_starts(timedelta(seconds=5))) == [(A, Mark(T0 + timedelta(seconds=5), 0))]


def test_before_the_first_day_of_all_there_is_nothing_to_look_back_at() -> None:
    first = Mark(BEGINNING.run_after, 7)
    lanes = Lanes()
    lanes.found([head(A, first)])
    for _ in range(MIN_CLAIMS):
        lanes.claimed(lanes.to_claim(), 1, [Claimed(A, [job(A, first)])])

    assert list(lanes.scan_starts(timedelta(seconds=5))) == [(A, BEGINNING)]


def test_looks_begin_at_the_beginning_of_a_lane_that_was_hardly_claimed_from() -> None:
    lanes = lanes_with(A)
    for _ in range(MIN_CLAIMS - 1):
        lanes.claimed(lanes.to_claim(), 1, [Claimed(A, [job(A, at(10, 7))])])

    assert lanes.scan_starts() == []
    assert lanes.marks == {A: at(10, 7)}


def test_what_was_ahead_of_the_mark_when_a_look_began_does_not_rewind_it() -> None:
    lanes = lanes_with(A)
    lanes.claimed(lanes.to_claim(), 1, [Claimed(A, [job(A, at(5, 9))])])
    before = lanes.marks
    lanes.claimed(lanes.to_claim(), 1, [Claimed(A, [job(A, at(8))])])

    claimed_meanwhile = [lanes.found([head(A, mark)], before) for mark in (at(7), at(5, 10))]
    late = lanes.found([head(A, at(4))], before)

    assert (claimed_meanwhile, late) == ([False, False], True)
    assert lanes.to_claim()[0][1] < at(4)


def test_a_mark_that_was_rewound_during_a_claim_stays_where_it_is() -> None:
    lanes = lanes_with(A)
    lanes.claimed(lanes.to_claim(), 1, [Claimed(A, [job(A, at(10))])])
    asked, before = lanes.to_claim(), lanes.marks

    assert lanes.found([head(A, at(5))], before)
    lanes.claimed(asked, 9, [Claimed(A, [job(A, at(11))])])

    [(_, mark)] = lanes.to_claim()
    assert mark < at(5)


def test_a_wake_up_asks_the_lanes_that_were_served_last_though_they_ran_dry() -> None:
    many = [Lane("q", f"t{i}", 0) for i in range(MAX_RECENT + 5)]
    lanes = lanes_with(*many)
    asked = lanes.to_claim()
    lanes.claimed(asked, 100, [Claimed(lane, [job(lane, at(9))]) for lane, _ in asked])
    assert not lanes.any
    lanes.claimed([(many[0], at(9))], 100, [Claimed(many[0], [job(many[0], at(10))])])

    lanes.reactivate_recent()

    assert dict(lanes.to_claim()) == {**dict.fromkeys(many[6:], at(9)), many[0]: at(10)}


def test_a_due_lane_is_news_if_it_was_not_known_to_be_due() -> None:
    lanes = Lanes()
    assert lanes.found([head(A, at(1))])
    assert not lanes.found([head(A, at(1))])
    assert not lanes.found([head(A, at(2))])

    lanes.claimed(lanes.to_claim(), 1, [])

    assert lanes.found([head(A, at(3))])


def test_the_lane_that_was_not_served_for_the_longest_is_forgotten_first() -> None:
    many = [Lane("q", f"t{i}", 0) for i in range(MAX_MARKS)]
    lanes = lanes_with(*many)
    lanes.claimed([(many[0], lanes.marks[many[0]])], 1, [Claimed(many[0], [job(many[0], at(9))])])
    lanes.found([head(Lane("q", "new", 0), at(1))])

    remembered = lanes.marks.keys()
    assert many[0] in remembered
    assert many[1] not in remembered
    assert len(remembered) == MAX_MARKS


def test_with_its_watermark_everything_is_forgotten_of_a_lane() -> None:
    lanes = lanes_with(A)
    once = job(A, at(1))
    once.max_attempts = 1
    for _ in range(MIN_CLAIMS):
        lanes.claimed(lanes.to_claim(), 1, [Claimed(A, [once])])
    lanes.claimed(lanes.to_claim(), 1, [], seconds=2 * SLOW)

    lanes.found([head(Lane("q", f"t{i}", 0), at(0)) for i in range(MAX_MARKS)])

    assert A not in lanes.marks
    assert lanes.scan_starts() == []
    assert not any(A in memory for memory in (lanes._single_start, lanes._slow_and_empty, lanes._claims))


def test_a_mark_that_was_moved_on_during_a_claim_stays_where_it_is() -> None:
    lanes = lanes_with(A)
    asked = lanes.to_claim()

    lanes.found([head(A, at(9))], seconds=2 * SLOW)
    lanes.claimed(asked, 1, [Claimed(A, [job(A, at(5))])])

    assert lanes.marks == {A: at(9, 0)}


def test_a_clock_that_was_set_back_behind_a_watermark_is_noticed() -> None:
    lanes = lanes_with(A)
    lanes.claimed(lanes.to_claim(), 1, [Claimed(A, [job(A, at(10))])])

    assert not lanes.ahead_of(T0 + timedelta(seconds=10))
    assert lanes.ahead_of(T0 + timedelta(seconds=9))
