"""What a cron expression may say, and the reason and the place when it may not."""

import re
from datetime import UTC, datetime

import pytest
from croniter import croniter
from hypothesis import given
from hypothesis import strategies as st

from pqlite.errors import InvalidSchedule
from pqlite.schedules import Schedule
from pqlite.schedules.parsing import check_with_croniter, parse


@pytest.mark.parametrize(
    ("expression", "reason", "character"),
    [
        ("0 0 1 Jan-Jan *", "begins and ends with jan", 7),
        ("0 0 * * sun-sun", "begins and ends with sun", 9),
        ("59/15 * * * *", "reaches no second value", 1),
        ("1-5/9 * * * *", "reaches no second value", 1),
        ("*/60 * * * *", "reaches no second value", 1),
        ("*/0 * * * *", "reaches no second value", 1),
        ("* * * * 6/1", "needs a range", 9),
        ("0 0 30 2 *", "day 30 never comes", 5),
        ("0 0 31 apr,jun *", "day 31 never comes", 5),
        ("0 0 30 2 mon", "day 30 never comes", 5),
        ("0 22-2 * * *", "backwards", 3),
        ("0 5-5 * * *", "begins and ends with 5", 3),
        ("60 * * * *", "minute is 0 to 59, not 60", 1),
        ("0 24 * * *", "hour is 0 to 23, not 24", 3),
        ("0 0 0 * *", "day of month is 1 to 31, not 0", 5),
        ("0 0 * 13 *", "month is 1 to 12, not 13", 7),
        ("0 0 * * 8", "day of week is 0 to 7, not 8", 9),
        ("0 jan * * *", "hour is 0 to 23", 3),
        ("0 0 * mon *", "month is 1 to 12, or jan", 7),
        ("*,5 * * * *", "stands alone", 1),
        ("5, * * * *", "missing beside a comma", 3),
        ("0 0 15W * *", "working day", 5),
        ("0 0 ? * *", "instead of '?'", 5),
        ("H * * * *", "random", 1),
        ("R(0-5) * * * *", "random", 1),
        ("0 0 * * mon#6", "1 to 5 times", 9),
        ("0 0 * * fri#2,mon", "cannot be mixed", 15),
        ("0 0 L-3 * *", "last day", 5),
        ("-5 * * * *", "minute is 0 to 59", 1),
        ("005 * * * *", "one or two digits", 1),
        ("٣ * * * *", "minute is 0 to 59", 1),
        ("  0  0 x * *", "day of month", 8),
    ],
)
def test_an_expression_without_a_meaning_is_refused_with_the_reason_and_the_character(
    expression: str, reason: str, character: int
) -> None:
    with pytest.raises(InvalidSchedule, match=f"{re.escape(reason)}.*at character {character}:"):
        parse(expression)


@pytest.mark.parametrize("expression", ["", "* * * *", "* * * * * * *", "@reboot", "@every 5m", "0 0 * * 5L"])
def test_what_is_no_cron_expression_at_all_is_refused(expression: str) -> None:
    with pytest.raises(InvalidSchedule, match="is no cron expression"):
        parse(expression)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("@yearly", ["2027-01-01 00:00", "2028-01-01 00:00"]),
        ("@monthly", ["2026-03-01 00:00", "2026-04-01 00:00"]),
        ("@weekly", ["2026-02-15 00:00", "2026-02-22 00:00"]),
        ("@DAILY", ["2026-02-13 00:00", "2026-02-14 00:00"]),
        ("@hourly", ["2026-02-12 13:00", "2026-02-12 14:00"]),
        ("0 0 L * *", ["2026-02-28 00:00", "2026-03-31 00:00"]),
        ("0 0 L,15 * *", ["2026-02-15 00:00", "2026-02-28 00:00"]),
        ("0 9 * * fri#2", ["2026-02-13 09:00", "2026-03-13 09:00"]),
        ("0 9 * * L5", ["2026-02-27 09:00", "2026-03-27 09:00"]),
        ("0 0 13 * fri", ["2026-02-13 00:00", "2026-02-20 00:00"]),
        ("0 0 1 * fri#2", ["2026-02-13 00:00", "2026-03-01 00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 0 * 2 5#5", ["2036-02-29 00:00", "2064-02-29 00:00"]),
        ("0 0 * * Fri-Sun", ["2026-02-13 00:00", "2026-02-14 00:00"]),
        ("0 0 * * 7", ["2026-02-15 00:00", "2026-02-22 00:00"]),
        ("10/25 12 * * *", ["2026-02-12 12:10", "2026-02-12 12:35"]),
        ("5-59/20 * * * *", ["2026-02-12 12:05", "2026-02-12 12:25"]),
    ],
)
def test_an_expression_comes_when_it_says(expression: str, expected: list[str]) -> None:
    found = Schedule("s", "job", cron=expression).next_ticks(2, after=datetime(2026, 2, 12, 12, 0, tzinfo=UTC))

    assert [f"{tick:%Y-%m-%d %H:%M}" for tick in found] == expected


def test_in_six_fields_the_second_comes_first() -> None:
    found = Schedule("s", "job", cron="*/20 30 4 * * *").next_ticks(4, after=datetime(2026, 2, 12, tzinfo=UTC))

    assert [f"{tick:%d %H:%M:%S}" for tick in found] == ["12 04:30:00", "12 04:30:20", "12 04:30:40", "13 04:30:00"]


@pytest.mark.parametrize("expression", ["0-59 0 * * *", "0 0-23 * * *", "*/7 3 * * *", "0 */5 * * *", "* 5 3 * * *"])
def test_what_begins_with_a_star_or_has_all_values_goes_by_elapsed_time(expression: str) -> None:
    assert parse(expression).wildcard


@pytest.mark.parametrize("expression", ["0 0 * * *", "0-58 0-22 * * *", "0,30 1-5 * * *", "5 0 0 * * *"])
def test_times_of_the_day_go_by_the_clock(expression: str) -> None:
    assert not parse(expression).wildcard


@pytest.mark.parametrize("expression", ["0 0 L5 * *", "5/60 * * * *"])
def test_an_expression_that_croniter_reads_in_another_way_or_not_at_all_is_refused(expression: str) -> None:
    with pytest.raises(InvalidSchedule):
        Schedule("s", "job", cron=expression)


@given(st.text(alphabet="0123456789*/-,#LlhrWjansufri@? ", max_size=25))
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    try:
        cron = parse(text)
    except InvalidSchedule:
        return
    check_with_croniter(cron)
    assert croniter.is_valid(text.strip(), second_at_beginning=True)


_VALUE = st.integers(0, 59)


@given(st.lists(_VALUE, min_size=1, max_size=5), st.lists(st.integers(0, 23), min_size=1, max_size=3), st.datetimes())
def test_a_tick_is_after_the_time_and_matches_and_none_lies_between(
    minutes: list[int], hours: list[int], after: datetime
) -> None:
    after = after.replace(year=2000 + after.year % 50)
    cron = parse(f"{','.join(map(str, minutes))} {','.join(map(str, hours))} * * *")

    tick = cron.next(after)

    assert tick is not None
    assert tick > after
    assert (tick.minute in minutes, tick.hour in hours, tick.second) == (True, True, 0)
    candidates = [
        day.replace(hour=hour, minute=minute, second=0, microsecond=0)
        for day in (after, tick)
        for hour in hours
        for minute in minutes
    ]
    assert tick == min(each for each in candidates if each > after)
