"""What a worker is given: functions by job type, plain or declared."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from pqlite.errors import ConfigurationError, InvalidJob
from pqlite.handlers.context import JobContext
from pqlite.handlers.signature import refuse_generator
from pqlite.handlers.typed import TypedHandler
from pqlite.store.validation import name

Handler: TypeAlias = Callable[[JobContext], Awaitable[Any] | Any]
"""Runs a job: `async def` on the event loop, plain `def` in a thread. What it returns is kept in `jobs.result`."""

AnyHandler: TypeAlias = Handler | TypedHandler[..., Any, ..., Any]
"""A plain handler, or one that was declared in a `Handlers` registry."""


def checked(handlers: Mapping[str, AnyHandler]) -> dict[str, AnyHandler]:
    """Return the handlers by job type.

    Raises:
        ConfigurationError: there are none, a job type is no name, or a handler cannot be called or yields.
    """
    if not handlers:
        raise ConfigurationError("A worker without handlers would do nothing: handlers={'job_type': function}")
    for job_type, handler in handlers.items():
        try:
            name("job_type", job_type, 200)
        except InvalidJob as error:
            raise ConfigurationError(str(error)) from None
        if not callable(handler):
            raise ConfigurationError(f"The handler of {job_type!r} must be a function, not {handler!r}")
        refuse_generator(handler, f"The handler of {job_type!r}")
    return dict(handlers)


def versions(handlers: Mapping[str, AnyHandler]) -> dict[str, int]:
    """Return up to which version the payloads of each declared job type can be run; plain handlers take any."""
    return {job_type: each.version for job_type, each in handlers.items() if isinstance(each, TypedHandler)}
