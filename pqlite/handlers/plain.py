"""Plain handlers, and the checks of the handlers that a worker is given."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from pqlite.errors import ConfigurationError, InvalidJob
from pqlite.handlers.context import JobContext
from pqlite.handlers.signature import Dependency, refuse_generator
from pqlite.handlers.typed import TypedHandler
from pqlite.store.validation import name

Handler: TypeAlias = Callable[[JobContext], Awaitable[Any] | Any]
"""Runs a job: `async def` on the event loop, plain `def` in a thread. Its result is stored in `jobs.result`."""

AnyHandler: TypeAlias = Handler | TypedHandler[..., Any, ..., Any]
"""A plain handler, or one that was declared in a `Handlers` registry."""


def checked(handlers: Mapping[str, AnyHandler]) -> dict[str, AnyHandler]:
    """Return the handlers by job type.

    Raises:
        ConfigurationError: there are none, a job type is not a valid name, or a handler yields or cannot be called with
            a JobContext.
    """
    if not isinstance(handlers, Mapping):
        raise ConfigurationError(
            f"handlers must be a Handlers registry, or functions by job type ({{'t': function}}), not {handlers!r}"
        )
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
        if not isinstance(handler, TypedHandler):
            _check_callable(handler, f"The handler of {job_type!r}")
    return dict(handlers)


def _check_callable(handler: Handler, title: str) -> None:
    """Refuse a plain handler that cannot be called with the context alone: each of its attempts would fail."""
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return  # a built-in function
    declared = "A handler that takes its payload as arguments, or Depends, is declared with @handlers.job('job_type')"
    if any(isinstance(each.default, Dependency) for each in signature.parameters.values()):
        raise ConfigurationError(f"{title} has Depends, and is called with a JobContext alone. {declared}")
    try:
        signature.bind(None)
    except TypeError as error:
        raise ConfigurationError(f"{title} is called with a JobContext alone: {error}. {declared}") from None


def versions(handlers: Mapping[str, AnyHandler]) -> dict[str, int]:
    """Return the newest payload version that each declared handler accepts; plain handlers accept any version."""
    return {job_type: each.version for job_type, each in handlers.items() if isinstance(each, TypedHandler)}
