import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqlite import BackoffPolicy, IdlePollPolicy, LoopErrorPolicy
from pqlite.backoff import MAX_RETRY_DELAY, retry_seconds, seconds


@pytest.mark.parametrize(
    ("attempts", "minutes"), [(-1, 1), (0, 1), (1, 1), (2, 5), (3, 30), (4, 120), (5, 360), (6, 360), (10**9, 360)]
)
def test_retries_wait_one_five_thirty_minutes_two_hours_and_then_six(attempts: int, minutes: int) -> None:
    assert BackoffPolicy().retry_delay(attempts) == timedelta(minutes=minutes)


def test_a_subclass_may_return_seconds_or_a_timedelta() -> None:
    class Seconds(BackoffPolicy):
        def retry_delay(self, attempts: int) -> float:
            return attempts * 1.5

    assert retry_seconds(Seconds(), 3) == 4.5
    assert retry_seconds(BackoffPolicy(), 2) == 300.0


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        *[(0, 0.0), (1.5, 1.5), (-3, 0.0), (timedelta(seconds=-3), 0.0), (timedelta(minutes=1), 60.0), (True, 1.0)],
        *[(math.inf, MAX_RETRY_DELAY.total_seconds()), (-math.inf, 0.0), (10**9, MAX_RETRY_DELAY.total_seconds())],
        (timedelta.max, MAX_RETRY_DELAY.total_seconds()),
    ],
)
def test_a_delay_is_kept_between_now_and_a_year(delay: timedelta | float, expected: float) -> None:
    assert seconds(delay) == expected


@pytest.mark.parametrize(("nonsense", "error"), [(math.nan, ValueError), (None, TypeError), ("soon", ValueError)])
def test_a_delay_that_is_no_number_is_an_error(nonsense: float, error: type[Exception]) -> None:
    with pytest.raises(error):
        seconds(nonsense)


def test_an_idle_worker_polls_after_one_two_five_and_ten_seconds() -> None:
    assert [IdlePollPolicy().next_sleep(streak) for streak in (0, 1, 2, 3, 4, 5, 10**9)] == [1, 1, 2, 5, 10, 10, 10]


def test_the_longest_idle_sleep_is_the_callers() -> None:
    policy = IdlePollPolicy(base_seconds=0.5, max_seconds=1.2)

    assert [policy.next_sleep(streak) for streak in (1, 2, 3, 4)] == [0.5, 1.0, 1.2, 1.2]


@given(st.integers(min_value=-5, max_value=10**12))
def test_a_loop_that_fails_pauses_no_longer_than_two_seconds_however_often_it_failed(errors: int) -> None:
    assert 0.2 <= LoopErrorPolicy().next_sleep(errors) <= 2.0


def test_a_loop_that_fails_again_pauses_twice_as_long() -> None:
    assert [LoopErrorPolicy().next_sleep(errors) for errors in (1, 2, 3, 4, 5)] == [0.2, 0.4, 0.8, 1.6, 2.0]
