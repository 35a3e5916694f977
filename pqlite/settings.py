"""The settings of a worker with their defaults and units, and the environment variables that override them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from pqlite.errors import ConfigurationError

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """A worker's settings. Durations are timedeltas.

    A worker that has not renewed its lease for `lease` counts as dead; it renews every `renew_every`. Finished jobs are
    kept for `retain_done` and `retain_failed` (None: for ever, zero: not at all).
    """

    enabled: bool = True
    concurrency: int = 10
    enable_reaper: bool = True
    enable_scheduler: bool = True
    reap_stale_every: timedelta = timedelta(seconds=60)
    default_stale_after: timedelta = timedelta(minutes=20)
    shutdown_grace: timedelta = timedelta(seconds=10)
    shutdown_timeout: timedelta = timedelta(seconds=25)
    lease: timedelta = timedelta(seconds=20)
    renew_every: timedelta = timedelta(seconds=3)
    retain_done: timedelta | None = timedelta(days=7)
    retain_failed: timedelta | None = timedelta(days=30)

    def __post_init__(self) -> None:
        """Refuse invalid values with a ConfigurationError."""
        positive("concurrency", self.concurrency)
        for name in ("reap_stale_every", "default_stale_after", "shutdown_timeout", "lease", "renew_every"):
            if getattr(self, name) <= timedelta(0):
                raise ConfigurationError(f"{name} must be longer than zero, not {getattr(self, name)!r}")
        for name in ("shutdown_grace", "retain_done", "retain_failed"):
            if (value := getattr(self, name)) is not None and value < timedelta(0):
                raise ConfigurationError(f"{name} must not be negative, not {value!r}")
        if self.lease < timedelta(seconds=12):
            # Others may declare a worker dead 8 s after its last renewal; it must be able to stop its attempts first.
            raise ConfigurationError(f"lease must be 12 seconds or longer, not {self.lease!r}")
        if self.renew_every > timedelta(seconds=4):
            raise ConfigurationError(f"renew_every must be 4 seconds or shorter, not {self.renew_every!r}")


def positive(what: str, value: int) -> int:
    """Return a whole number of 1 or more.

    Raises:
        ConfigurationError: it is not; the message calls it `what`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{what} must be a whole number of 1 or more, not {value!r}")
    return value


def timeout_seconds(what: str, value: float | timedelta) -> float:
    """Return a timeout, given in seconds or as a timedelta, in seconds.

    Raises:
        ConfigurationError: it is not more than 0; the message calls it `what`.
    """
    given = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(given, (int, float)) or isinstance(given, bool) or not 0 < given < math.inf:
        raise ConfigurationError(f"{what} must be a number of seconds above 0, or a timedelta above 0, not {value!r}")
    return float(given)


def _boolean(value: str) -> bool:
    word = value.strip().lower()
    if word not in _TRUE + _FALSE:
        raise ValueError
    return word in _TRUE


def _count(value: str) -> int:
    if (number := int(value)) < 1:
        raise ValueError
    return number


def _duration(value: str) -> timedelta:
    number = float(value)
    if not math.isfinite(number) or number <= 0:
        raise ValueError
    return timedelta(seconds=number)


def _duration_or_zero(value: str) -> timedelta:
    return timedelta(0) if float(value) == 0 else _duration(value)


_BOOLEAN = f"one of {', '.join(_TRUE + _FALSE)}"
_SECONDS = "a number of seconds above 0"
_ENVIRONMENT: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "WORKER_ENABLED": ("enabled", _boolean, _BOOLEAN),
    "WORKER_CONCURRENCY": ("concurrency", _count, "a whole number of 1 or more"),
    "WORKER_REAPER_ENABLED": ("enable_reaper", _boolean, _BOOLEAN),
    "WORKER_SCHEDULER_ENABLED": ("enable_scheduler", _boolean, _BOOLEAN),
    "WORKER_REAP_INTERVAL": ("reap_stale_every", _duration, _SECONDS),
    "WORKER_STALE_TIMEOUT": ("default_stale_after", _duration, _SECONDS),
    "WORKER_SHUTDOWN_GRACE": ("shutdown_grace", _duration_or_zero, "a number of seconds, 0 or more"),
    "WORKER_SHUTDOWN_TIMEOUT": ("shutdown_timeout", _duration, _SECONDS),
}


def log_as_json(environ: Mapping[str, str] | None = None) -> bool:
    """Return whether WORKER_LOG_JSON asks `pqlite worker` for JSON.

    Raises:
        ConfigurationError: its value is malformed.
    """
    value = (os.environ if environ is None else environ).get("WORKER_LOG_JSON", "")
    try:
        return bool(value.strip()) and _boolean(value)
    except ValueError:
        raise ConfigurationError(f"WORKER_LOG_JSON is {value!r}; it must be {_BOOLEAN}") from None


def from_environment(settings: WorkerSettings, environ: Mapping[str, str] | None = None) -> WorkerSettings:
    """Return the settings with the WORKER_* variables applied. They win, so that a deployment can override the code.

    Raises:
        ConfigurationError: a variable's value is malformed; the message names the variable and the accepted values.
    """
    environ = os.environ if environ is None else environ
    changes: dict[str, Any] = {}
    for name, (field, parse, accepted) in _ENVIRONMENT.items():
        value = environ.get(name)
        if value is None or not value.strip():
            continue
        try:
            changes[field] = parse(value)
        except (ValueError, OverflowError):
            raise ConfigurationError(f"{name} is {value!r}; it must be {accepted}") from None
    return replace(settings, **changes)
