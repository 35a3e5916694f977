"""How long to wait: before a retry, when idle, after an error of the infrastructure. Pure; subclass to change."""

from __future__ import annotations

import math
from datetime import timedelta

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

        It runs before the outcome is written. If it raises or returns nonsense, pqlite logs that and uses its own
        steps: a broken policy must not lose a failure.
        """
        return _STEPS[min(max(attempts, 1), len(_STEPS)) - 1]


class IdlePollPolicy:
    """How long a worker that found nothing sleeps, unless it is woken or a job becomes due: 1, 2, 5, 10 s.

    `base_seconds` is the first sleep, `max_seconds` the longest.
    """

    def __init__(self, base_seconds: float = 1.0, max_seconds: float = 10.0) -> None:
        self.base_seconds = base_seconds
        self.max_seconds = max_seconds

    def next_sleep(self, empty_streak: int) -> float:
        """Return seconds to sleep after `empty_streak` (1 or more) claims in a row found nothing."""
        factors = (1.0, 2.0, 5.0, 10.0)
        factor = factors[min(max(empty_streak, 1), len(factors)) - 1]
        return min(self.base_seconds * factor, self.max_seconds)


class LoopErrorPolicy:
    """How long a loop pauses after an error of the infrastructure (a database away, a connection lost).

    Not for errors of jobs: those are the BackoffPolicy's. 0.2 s, doubling, up to 2 s: short enough that a worker
    has renewed its lease before anybody may judge it after an outage.
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
    value = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
    if math.isnan(value):
        raise ValueError("a delay must be a number")
    return min(max(value, 0.0), MAX_RETRY_DELAY.total_seconds())


def retry_seconds(policy: BackoffPolicy, attempts: int) -> float:
    """Return the policy's delay in seconds.

    Raises:
        Exception: whatever a subclass raises, or returns that is no delay.
    """
    return seconds(policy.retry_delay(attempts))
