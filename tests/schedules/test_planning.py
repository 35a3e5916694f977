"""Which slots fire, which are given up, and when to look again."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqlite.errors import InvalidSchedule
from pqlite.schedules import EPOCH, Schedule, delay, plan, timing
from pqlite.schedules.planning import CHUNK, MAX_MISSED

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
MINUTELY = timing("* * * * *", None, anchor=None, timezone="UTC")
SECONDLY = timing(None, timedelta(seconds=1), anchor=None, timezone="UTC")


def _ago(**duration: float) -> datetime:
    return NOON - timedelta(**duration)


def test_a_slot_that_is_due_fires_and_the_next_is_looked_for() -> None:
    found = plan(MINUTELY, missed="latest", handled_through=_ago(minutes=1), now=NOON + timedelta(milliseconds=3))

    assert (found.slots, found.missed, found.through) == ((NOON,), 0, NOON)
    assert found.next_at == NOON + timedelta(minutes=1)


def test_after_a_downtime_the_latest_slot_fires() -> None:
    found = plan(MINUTELY, missed="latest", handled_through=_ago(minutes=10), now=NOON)

    assert (found.slots, found.missed) == ((NOON,), 9)


def test_with_skip_a_slot_of_long_ago_does_not_fire_and_one_of_just_now_does() -> None:
    late = plan(MINUTELY, missed="skip", handled_through=_ago(minutes=5), now=NOON + timedelta(seconds=31))
    prompt = plan(MINUTELY, missed="skip", handled_through=_ago(minutes=5), now=NOON + timedelta(seconds=29))

    assert (late.slots, late.missed, late.through) == ((), 5, NOON)
    assert (prompt.slots, prompt.missed) == ((NOON,), 4)


def test_with_all_every_slot_fires_in_chunks_and_at_most_the_latest_thousand() -> None:
    through, fired, given_up = _ago(days=3), [], 0
    for _ in range(MAX_MISSED // CHUNK):
        found = plan(MINUTELY, missed="all", handled_through=through, now=NOON)
        assert len(found.slots) == CHUNK
        fired += found.slots
        given_up += found.missed
        through = found.through

    assert fired == [NOON - timedelta(minutes=n) for n in reversed(range(MAX_MISSED))]
    assert given_up == 100  # or more
    assert plan(MINUTELY, missed="all", handled_through=through, now=NOON).slots == ()


def test_years_without_a_worker_are_not_walked_second_by_second() -> None:
    found = plan(SECONDLY, missed="latest", handled_through=_ago(days=20_000), now=NOON)

    assert (found.slots, found.missed) == ((NOON,), 100)


def test_a_clock_that_was_set_back_fires_nothing_twice() -> None:
    found = plan(MINUTELY, missed="all", handled_through=NOON + timedelta(hours=1), now=NOON)

    assert found.slots == ()
    assert found.next_at == NOON + timedelta(hours=1, minutes=1)


def test_slots_that_waited_for_a_job_are_not_missed() -> None:
    found = plan(MINUTELY, missed="latest", handled_through=_ago(minutes=3), now=NOON, held=True)

    assert len(found.slots) == 3
    assert found.missed == 0


def test_intervals_begin_at_their_anchor_whenever_they_are_asked_for() -> None:
    every = timedelta(minutes=7)
    plain = Schedule("s", "job", every=every)
    anchored = Schedule("s", "job", every=every, anchor=datetime(2026, 1, 1, 0, 3, tzinfo=UTC))

    assert (plain.next_ticks(1, after=NOON)[0] - EPOCH) % every == timedelta(0)
    assert anchored.next_ticks(1, after=datetime(2025, 12, 31, 23, 59, tzinfo=UTC)) == [
        datetime(2026, 1, 1, 0, 3, tzinfo=UTC)
    ]
    assert anchored.next_ticks(1, after=datetime(2026, 1, 1, 0, 3, tzinfo=UTC)) == [
        datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
    ]


@given(
    st.timedeltas(timedelta(seconds=1), timedelta(days=400)),
    st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
)
def test_an_interval_has_exactly_one_slot_in_each_of_its_lengths(
    every: timedelta, anchor: datetime, after: datetime
) -> None:
    when = timing(None, every, anchor=anchor, timezone="UTC")

    tick = when.next(after)

    assert tick is not None
    assert after < tick <= after + every
    assert (tick - anchor) % every == timedelta(0)
    assert when.next(tick) == tick + every


@settings(deadline=None)
@given(
    st.sampled_from([MINUTELY, SECONDLY, timing("*/5 3 * * *", None, anchor=None, timezone="Europe/Berlin")]),
    st.timedeltas(timedelta(0), timedelta(hours=30)),
    st.sampled_from(["latest", "skip", "all"]),
)
def test_no_slot_is_planned_twice_nor_before_its_time_and_the_plan_ends_what_it_looked_at(
    when: timing, downtime: timedelta, missed: str
) -> None:
    first = plan(when, missed=missed, handled_through=NOON - downtime, now=NOON)
    second = plan(when, missed=missed, handled_through=first.through, now=NOON)

    assert all(NOON - downtime < slot <= NOON for slot in first.slots)
    assert list(first.slots) == sorted(set(first.slots))
    assert not set(first.slots) & set(second.slots)
    if missed != "all":
        assert second.slots == ()
        assert second.next_at == first.next_at
    assert first.next_at is not None
    assert first.next_at > NOON or missed == "all"


def test_jitter_is_less_than_its_bound_differs_by_slot_and_is_the_same_each_time() -> None:
    slots = [NOON + timedelta(minutes=n) for n in range(200)]
    bound = timedelta(seconds=30)

    delays = [delay("s", slot, bound) for slot in slots]

    assert all(timedelta(0) <= each < bound for each in delays)
    assert len(set(delays)) > 190
    assert max(delays) - min(delays) > timedelta(seconds=20)
    assert delays == [delay("s", slot, bound) for slot in slots]
    assert delay("s", NOON, timedelta(0)) == timedelta(0)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "either cron= or every="),
        ({"cron": "@daily", "every": 5}, "either cron= or every="),
        ({"every": 0.5}, "1 second to 100 years"),
        ({"every": "5m"}, "every must be a timedelta"),
        ({"every": True}, "every must be a timedelta"),
        ({"every": 5, "timezone": "Europe/Berlin"}, "belongs to cron="),
        ({"every": 5, "anchor": datetime(2026, 1, 1)}, "with a zone"),
        ({"cron": "@daily", "anchor": NOON}, "belongs to every="),
        ({"cron": "@daily", "timezone": "Mars/Olympus"}, "no time zone 'Mars/Olympus'"),
        ({"cron": "@daily", "overlap": "never"}, "overlap is 'never'"),
        ({"cron": "@daily", "missed": "none"}, "missed is 'none'"),
        ({"cron": "@daily", "jitter": -1}, "jitter must be 0 or more"),
        ({"cron": "@daily", "jitter": timedelta(days=1)}, "less than a day"),
        ({"cron": "@daily", "dedupe_key": "k"}, "overlap= says"),
        ({"cron": "@daily", "run_after": 5}, "the schedule says when"),
        ({"cron": "@daily", "quueue": "mail"}, "no option 'quueue'"),
        ({"cron": "0 0 30 2 *"}, "at character 5"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused_with_its_name(arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidSchedule, match="Schedule 'nightly': .*" + reason):
        Schedule("nightly", "job", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "x" * 201, "a\0b", 5])
def test_a_schedule_has_a_name_that_a_column_can_hold(name: object) -> None:
    with pytest.raises(InvalidSchedule, match="name must be text"):
        Schedule(name, "job", cron="@daily")  # type: ignore[arg-type]
