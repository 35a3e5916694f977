"""What a user passes to Worker, checked."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import timedelta

from pqlite.errors import ConfigurationError, InvalidJob
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
