"""What a user passes to Worker, checked."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import timedelta

from pqlite.errors import ConfigurationError, InvalidJob
from pqlite.handlers import Hooks, Middleware, with_hooks
from pqlite.store.validation import name, names

Duration = float | timedelta


def duration(value: Duration) -> timedelta:
    """Return a duration that was given in seconds or as a timedelta."""
    return value if isinstance(value, timedelta) else timedelta(seconds=value)


def label(worker_id: str | None) -> str:
    """Return the worker's label; "host-pid" if none was given.

    Raises:
        ConfigurationError: it is no name.
    """
    try:
        return name("worker_id", worker_id or f"{platform.node() or 'host'}-{os.getpid()}", 200)
    except InvalidJob as error:
        raise ConfigurationError(str(error)) from None


def served(queues: Iterable[str] | None) -> list[str] | None:
    """Return the queues to serve, None for all.

    Raises:
        ConfigurationError: one is no name.
    """
    try:
        return None if queues is None else names("queues", queues, 200)
    except InvalidJob as error:
        raise ConfigurationError(str(error)) from None


def around(hooks: Hooks | Sequence[Hooks], middleware: Sequence[Middleware]) -> tuple[Middleware, ...]:
    """Return what is wrapped around each attempt, outermost first: hooks, then middleware.

    Raises:
        ConfigurationError: one of them is no such thing.
    """
    several = tuple(hooks) if isinstance(hooks, Sequence) else (hooks,)
    for each in several:
        if not isinstance(each, Hooks):
            raise ConfigurationError(f"hooks must be Hooks(before_job=..., after_job=...), not {each!r}")
    for layer in middleware:
        if not callable(layer):
            raise ConfigurationError(f"middleware must be an async function of (ctx, call_next), not {layer!r}")
    return (*map(with_hooks, several), *middleware)
