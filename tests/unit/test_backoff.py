import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqlite import (
    BackoffPolicy,
    ConfigurationError,
    Constant,
    Exponential,
    IdlePollPolicy,
    Linear,
    LoopErrorPolicy,
)
from pqlite.backoff import MAX_RETRY_DELAY, policy_of, retry_seconds, seconds


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


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Exponential(jitter=0), [2.0, 2.0, 4.0, 8.0, 16.0]),
        (
            Exponential(base=timedelta(minutes=1), factor=10, cap=timedelta(hours=1), jitter=0),
            [60, 60, 600, 3600, 3600],
        ),
        (Exponential(base=5, factor=1, jitter=0), [5.0] * 5),
        (Linear(jitter=0), [60.0, 60.0, 120.0, 180.0, 240.0]),
        (Linear(step=timedelta(seconds=1), cap=2.5, jitter=0), [1.0, 1.0, 2.0, 2.5, 2.5]),
        (Constant(), [60.0] * 5),
        (Constant(timedelta(seconds=3)), [3.0] * 5),
    ],
)
def test_a_policy_without_jitter_waits_as_long_as_it_says(policy: BackoffPolicy, expected: list[float]) -> None:
    assert [retry_seconds(policy, attempts) for attempts in range(5)] == expected
    assert retry_seconds(policy, 10**9) <= 86400


@given(attempts=st.integers(1, 2000), jitter=st.floats(0, 1))
def test_jitter_only_shortens_a_delay_and_by_no_more_than_its_share(attempts: int, jitter: float) -> None:
    for kind in (Exponential, Linear):
        longest = retry_seconds(kind(jitter=0), attempts)
        delay = retry_seconds(kind(jitter=jitter), attempts)
        assert longest * (1 - jitter) - 1e-9 <= delay <= longest <= 86400


def test_jobs_that_failed_together_come_back_apart() -> None:
    assert len({retry_seconds(Exponential(), 5) for _ in range(100)}) > 90
    assert len({retry_seconds(Constant(60, jitter=True), 1) for _ in range(100)}) > 90


@pytest.mark.parametrize(
    ("policy", "arguments", "sentence"),
    [
        (Exponential, {"base": -1}, "base must be from 0 seconds to a year, not -1"),
        (Exponential, {"factor": 0.5}, "factor must be 1.0 or more, not 0.5"),
        (Exponential, {"factor": math.nan}, "factor must be 1.0 or more"),
        (Exponential, {"cap": timedelta(days=366)}, "cap must be from 0 seconds to a year"),
        (Linear, {"jitter": 1.1}, "jitter must be from 0.0 to 1.0, not 1.1"),
        (Constant, {"delay": math.inf}, "delay must be from 0 seconds to a year"),
        (Constant, {"delay": "a minute"}, "delay must be a number, not 'a minute'"),
        (Linear, {"step": None}, "step must be a number, not None"),
        (Exponential, {"factor": "twice"}, "factor must be a number, not 'twice'"),
        (Exponential, {"jitter": "some"}, "jitter must be a number, not 'some'"),
    ],
)
def test_a_policy_that_cannot_work_says_why(
    policy: type[BackoffPolicy], arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        policy(**arguments)


def test_a_function_of_the_attempt_is_a_policy_and_a_class_or_a_number_is_none() -> None:
    policy = Linear()

    assert retry_seconds(policy_of(lambda attempts: timedelta(seconds=attempts)), 3) == 3.0
    assert policy_of(policy) is policy
    for mistake in (Exponential, 60, None):
        with pytest.raises(ConfigurationError, match="backoff must be a BackoffPolicy or a function of the attempt"):
            policy_of(mistake)  # type: ignore[arg-type]


def test_an_idle_worker_polls_after_one_two_five_and_ten_seconds() -> None:
    assert [IdlePollPolicy().next_sleep(streak) for streak in (-1, 0, 1, 2, 3, 4, 10**9)] == [1, 1, 2, 5, 10, 10, 10]


@pytest.mark.parametrize(
    ("base", "longest", "sleeps"),
    [
        (0.5, 30.0, [0.5, 2.0, 5.0, 30.0, 30.0]),
        (0.5, 3.0, [0.5, 2.0, 3.0, 3.0, 3.0]),
        (0.5, 1.2, [0.5, 1.2, 1.2, 1.2, 1.2]),
        (60.0, 60.0, [60.0] * 5),
    ],
)
def test_idle_sleeps_begin_with_the_base_and_end_with_the_longest(
    base: float, longest: float, sleeps: list[float]
) -> None:
    policy = IdlePollPolicy(base_seconds=base, max_seconds=longest)

    assert [policy.next_sleep(streak) for streak in range(5)] == sleeps


@given(st.integers(min_value=-5, max_value=10**12))
def test_a_loop_that_fails_pauses_no_longer_than_two_seconds_however_often_it_failed(errors: int) -> None:
    assert 0.2 <= LoopErrorPolicy().next_sleep(errors) <= 2.0


def test_a_loop_that_fails_again_pauses_twice_as_long() -> None:
    assert [LoopErrorPolicy().next_sleep(errors) for errors in (1, 2, 3, 4, 5)] == [0.2, 0.4, 0.8, 1.6, 2.0]
