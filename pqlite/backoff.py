"""Policies for delays: before a retry, when a worker is idle, after an error of the infrastructure."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import timedelta
from typing import TypeAlias

from pqlite.errors import ConfigurationError

MAX_RETRY_DELAY = timedelta(days=365)

_STEPS = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=6),
)


class BackoffPolicy:
    """The delay before the next attempt of a failed job: 1 m, 5 m, 30 m, 2 h, then 6 h."""

    def retry_delay(self, attempts: int) -> timedelta | float:
        """Return the delay after attempt number `attempts` (1 for the first), as a timedelta or in seconds.

        It is called before the outcome is written. If it raises, or returns something that is not a delay, pqlite logs
        that and uses its own steps.
        """
        return _STEPS[min(max(attempts, 1), len(_STEPS)) - 1]


class Exponential(BackoffPolicy):
    """`base` after the first attempt, `factor` times as long after each further one, up to `cap`.

    `jitter` is the random share of a delay: with 0.2 it is from 80 % to 100 % of the full delay, with 1.0 from 0 %.
    Durations are seconds or timedeltas.

    Raises:
        ConfigurationError: an argument is not a number, or out of bounds.
    """

    def __init__(
        self,
        base: timedelta | float = 2.0,
        factor: float = 2.0,
        cap: timedelta | float = timedelta(days=1),
        jitter: float = 0.2,
    ) -> None:
        self.base, self.cap, self.jitter = _duration("base", base), _duration("cap", cap), _share("jitter", jitter)
        self.factor = _number("factor", factor)
        if not 1.0 <= self.factor < math.inf:
            raise ConfigurationError(f"factor must be 1.0 or more, not {factor!r}")

    def retry_delay(self, attempts: int) -> float:
        """Return the delay after attempt number `attempts`, in seconds."""
        try:
            delay = self.base * self.factor ** (max(attempts, 1) - 1)
        except OverflowError:
            delay = self.cap
        return _jittered(min(delay, self.cap), self.jitter)


class Linear(BackoffPolicy):
    """`step` after the first attempt, twice that after the second, and so on, up to `cap`; `jitter` as Exponential."""

    def __init__(
        self, step: timedelta | float = 60.0, cap: timedelta | float = timedelta(days=1), jitter: float = 0.2
    ) -> None:
        self.step, self.cap, self.jitter = _duration("step", step), _duration("cap", cap), _share("jitter", jitter)

    def retry_delay(self, attempts: int) -> float:
        """Return the delay after attempt number `attempts`, in seconds."""
        return _jittered(min(self.step * max(attempts, 1), self.cap), self.jitter)


class Constant(BackoffPolicy):
    """The same `delay` after each attempt; `jitter` as for Exponential, by default none."""

    def __init__(self, delay: timedelta | float = 60.0, jitter: float = 0.0) -> None:
        self.delay, self.jitter = _duration("delay", delay), _share("jitter", jitter)

    def retry_delay(self, attempts: int) -> float:
        """Return the delay, in seconds."""
        return _jittered(self.delay, self.jitter)


class _FunctionPolicy(BackoffPolicy):
    def __init__(self, function: Callable[[int], timedelta | float]) -> None:
        self._function = function

    def retry_delay(self, attempts: int) -> timedelta | float:
        return self._function(attempts)


Backoff: TypeAlias = BackoffPolicy | Callable[[int], timedelta | float]
"""A policy, or a function from the number of the attempt that failed (1 for the first) to the delay."""


def policy_of(backoff: Backoff) -> BackoffPolicy:
    """Return a policy as it is, a function as a policy.

    Raises:
        ConfigurationError: it is neither.
    """
    if not isinstance(backoff, type):
        if isinstance(backoff, BackoffPolicy) or hasattr(backoff, "retry_delay"):
            return backoff  # type: ignore[return-value]  # not a subclass, but it has the method
        if callable(backoff):
            return _FunctionPolicy(backoff)
    raise ConfigurationError(f"backoff must be a BackoffPolicy or a function of the attempt, not {backoff!r}")


class IdlePollPolicy:
    """How long an idle worker sleeps, unless it is notified or a job becomes due: 1, 2, 5, then 10 s.

    `base_seconds` is the first and shortest sleep, `max_seconds` the longest, reached at the fourth.
    """

    def __init__(self, base_seconds: float = 1.0, max_seconds: float = 10.0) -> None:
        self.base_seconds = base_seconds
        self.max_seconds = max_seconds

    def next_sleep(self, empty_streak: int) -> float:
        """Return seconds to sleep after a claim without jobs, as were `empty_streak` (0 or more) claims before it."""
        steps = (self.base_seconds, 2.0, 5.0)
        step = steps[max(empty_streak, 0)] if empty_streak < len(steps) else self.max_seconds
        return min(max(step, self.base_seconds), self.max_seconds)


class LoopErrorPolicy:
    """How long a loop pauses after an error of the infrastructure (the database is away, a connection was lost).

    It does not apply to errors of jobs; see BackoffPolicy. 0.2 s, doubling, up to 2 s: short enough that after an
    outage a worker renews its lease before another may declare it dead.
    """

    def next_sleep(self, consecutive_errors: int) -> float:
        """Return seconds to pause after `consecutive_errors` (1 or more) failures in a row."""
        return float(min(0.2 * 2 ** min(max(consecutive_errors, 1) - 1, 10), 2.0))


def seconds(delay: timedelta | float) -> float:
    """Return a delay in seconds, between 0 and a year.

    Raises:
        ValueError: it is not a number.
        TypeError: it is neither a timedelta nor a number.
    """
    if isinstance(delay, (str, bytes)):
        raise ValueError("a delay must be a number, not text")
    value = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
    if math.isnan(value):
        raise ValueError("a delay must be a number")
    return min(max(value, 0.0), MAX_RETRY_DELAY.total_seconds())


def retry_seconds(policy: BackoffPolicy, attempts: int) -> float:
    """Return the policy's delay in seconds.

    Raises:
        Exception: the policy raised it, or returned something that is not a delay.
    """
    return seconds(policy.retry_delay(attempts))


def _duration(name: str, value: timedelta | float) -> float:
    number = value.total_seconds() if isinstance(value, timedelta) else _number(name, value)
    if not 0.0 <= number <= MAX_RETRY_DELAY.total_seconds():
        raise ConfigurationError(f"{name} must be from 0 seconds to a year, not {value!r}")
    return number


def _share(name: str, value: float) -> float:
    share = _number(name, value)
    if not 0.0 <= share <= 1.0:
        raise ConfigurationError(f"{name} must be from 0.0 to 1.0, not {value!r}")
    return share


def _number(name: str, value: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{name} must be a number, not {value!r}") from None


def _jittered(delay: float, jitter: float) -> float:
    return delay * (1.0 - jitter * random.random()) if jitter else delay
