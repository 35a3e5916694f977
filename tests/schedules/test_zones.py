"""The days on which clocks change."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqlite.errors import InvalidSchedule
from pqlite.schedules import Schedule, timing, zone
from tests.schedules.agreement import compare
from tests.schedules.reference import ZONES


def _shown(expression: str, place: str, after: str, count: int) -> list[str]:
    """Return what the clock of a place shows at the next ticks."""
    start = datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(place)).astimezone(UTC)
    found = Schedule("s", "job", cron=expression, timezone=place).next_ticks(count, after=start)
    return [tick.astimezone(ZoneInfo(place)).strftime("%d %H:%M%z") for tick in found]


@pytest.mark.parametrize(
    ("expression", "place", "after", "expected"),
    [
        # a gap: at its end, and all that lies in it is one slot
        ("30 2 * * *", "Europe/Berlin", "2026-03-28 12:00", ["29 03:00+0200", "30 02:30+0200"]),
        ("10,50 2 * * *", "Europe/Berlin", "2026-03-28 12:00", ["29 03:00+0200", "30 02:10+0200"]),
        ("0,30 2,3 * * *", "Europe/Berlin", "2026-03-29 00:00", ["29 03:00+0200", "29 03:30+0200", "30 02:00+0200"]),
        ("0 0 * * *", "Africa/Cairo", "2026-04-23 12:00", ["24 01:00+0300", "25 00:00+0300"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03 12:00", ["04 02:30+1100", "05 02:15+1100"]),
        # wildcards: there is no such time
        ("*/30 2 * * *", "Europe/Berlin", "2026-03-28 12:00", ["30 02:00+0200", "30 02:30+0200"]),
        ("0 * * * *", "Europe/Berlin", "2026-03-29 00:30", ["29 01:00+0100", "29 03:00+0200", "29 04:00+0200"]),
        # a repeated hour: the first time
        ("30 2 * * *", "Europe/Berlin", "2026-10-24 12:00", ["25 02:30+0200", "26 02:30+0100"]),
        ("0-58/2 2 * * *", "Europe/Berlin", "2026-10-25 02:57", ["25 02:58+0200", "26 02:00+0100"]),
        # wildcards: both times
        (
            "*/30 2 * * *",
            "Europe/Berlin",
            "2026-10-24 12:00",
            ["25 02:00+0200", "25 02:30+0200", "25 02:00+0100", "25 02:30+0100", "26 02:00+0100"],
        ),
        # a day that a place left out
        ("0 12 30 12 *", "Pacific/Apia", "2011-12-29 00:00", ["31 00:00+1400", "30 12:00+1400"]),
    ],
)
def test_on_a_day_on_which_the_clock_changes(expression: str, place: str, after: str, expected: list[str]) -> None:
    assert _shown(expression, place, after, len(expected)) == expected


def test_within_a_repeated_hour_a_time_that_has_been_does_not_come_again() -> None:
    second_time = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # 02:10 in Berlin, for the second time

    found = timing("30 2 * * *", None, anchor=None, timezone="Europe/Berlin").next(second_time)

    assert found == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_ticks_agree_with_a_walk_over_all_days_and_minutes() -> None:
    assert compare(40, 1, seed=7, minutely=1) == []


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["* * * * *", "*/7 1,2,3 * * *", "30 0-4 * * *", "0,59 2 * * 0", "15 1 29 2 *"]),
    st.sampled_from(ZONES),
    st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
)
def test_ticks_ascend_and_the_one_after_a_moment_just_before_a_tick_is_that_tick(
    expression: str, place: str, after: datetime
) -> None:
    when = timing(expression, None, anchor=None, timezone=place)
    tick = when.next(after)
    assert tick is not None
    assert tick > after
    middle = after + (tick - after) / 2
    assert when.next(middle) == tick
    following = when.next(tick)
    assert following is not None
    assert following > tick


@pytest.mark.parametrize("name", ["Europe/Berln", "", "CEST2", "../../etc/passwd", "localtime", "right/UTC"])
def test_a_zone_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(InvalidSchedule, match="There is no time zone"):
        zone(name)


def test_without_time_zone_data_a_zone_is_refused_with_the_name_of_the_extra_and_utc_works(tmp_path: Path) -> None:
    code = (
        "import sys, zoneinfo\n"
        "zoneinfo.reset_tzpath([])\n"
        "sys.modules['tzdata'] = None\n"
        "from pqlite.schedules import Schedule\n"
        "Schedule('a', 'job', cron='@daily')\n"
        "try: Schedule('a', 'job', cron='@daily', timezone='Europe/Berlin')\n"
        "except ValueError as error: print(error)\n"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "no time zone data" in answer.stdout
    assert "pqlite-queue[tzdata]" in answer.stdout
