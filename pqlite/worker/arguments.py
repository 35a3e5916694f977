"""Checks the arguments of Worker."""

from __future__ import annotations

import inspect
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from pqlite.callables import listed
from pqlite.errors import ConfigurationError, InvalidJob
from pqlite.handlers import AnyHandler, Handlers, Hooks, Middleware, TypedHandler, with_hooks
from pqlite.schedules import Schedule
from pqlite.store.base import JobStore
from pqlite.store.postgres import PgJobStore
from pqlite.store.scheduling import defined
from pqlite.store.validation import name, names

Duration = float | timedelta

MAX_PAYLOAD_BYTES = 1024 * 1024

T = TypeVar("T")


def duration(what: str, value: Duration) -> timedelta:
    """Return a duration that was given in seconds or as a timedelta.

    Raises:
        ConfigurationError: it is neither; the message calls it `what`.
    """
    try:
        return value if isinstance(value, timedelta) else timedelta(seconds=value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigurationError(f"{what} must be a number of seconds or a timedelta, not {value!r}") from None


def one_of(what: str, value: str, accepted: tuple[str, ...]) -> None:
    """Check that the value is one of the accepted ones.

    Raises:
        ConfigurationError: it is not; the message calls it `what`.
    """
    if value not in accepted:
        raise ConfigurationError(f"{what} is {value!r}; it must be one of {accepted}")


def store_of(given: object) -> PgJobStore:
    """Return the given store.

    Raises:
        ConfigurationError: it is not a store, or has no database.
    """
    if isinstance(given, PgJobStore):
        return given
    if isinstance(given, JobStore):
        raise ConfigurationError(
            f"A Worker needs PostgreSQL, and a {type(given).__name__} has none: run its jobs with drain() or inline() "
            "of pqlite.testing, or test the worker on the pytest fixture pqlite_store, which starts a PostgreSQL"
        )
    # Only its type: the value may be an address with a password.
    what = f"the class {given.__name__}" if isinstance(given, type) else f"of type {type(given).__name__}"
    raise ConfigurationError(f"store must be a store, such as PgJobStore(dsn=...); it is {what}")


def sleep_policy(what: str, policy: T | None, default: type[T]) -> T:
    """Return the given policy, or the default if none was given.

    Raises:
        ConfigurationError: it has no method next_sleep; the message calls it `what`.
    """
    if policy is None:
        return default()
    if isinstance(policy, type) or not callable(getattr(policy, "next_sleep", None)):
        raise ConfigurationError(f"{what} must have a method next_sleep, as {default.__name__} has, not {policy!r}")
    return policy


def worker_label(worker_id: str | None) -> str:
    """Return the worker's label; "host-pid" if none was given.

    Raises:
        ConfigurationError: it is not a valid name.
    """
    try:
        return name("worker_id", worker_id or f"{platform.node() or 'host'}-{os.getpid()}", 200)
    except InvalidJob as error:
        raise ConfigurationError(str(error)) from None


def queues_to_serve(queues: Iterable[str] | None) -> list[str] | None:
    """Return the queues to serve, None for all.

    Raises:
        ConfigurationError: the list is empty, or contains an invalid name.
    """
    if queues is None:
        return None
    try:
        given = names("queues", queues, 200)
    except InvalidJob as error:
        raise ConfigurationError(str(error)) from None
    if not given:
        raise ConfigurationError("queues is empty: name those to serve, or leave it out to serve all")
    return given


def definitions(schedules: Sequence[Schedule], handlers: Mapping[str, AnyHandler]) -> list[dict[str, Any]]:
    """Return the schedules that the code defines, in the form in which they are stored.

    Raises:
        ConfigurationError: one is not a Schedule, or is declared on a function that is not a job.
        InvalidSchedule: two have the same name. InvalidJob: a job could not be enqueued.
    """
    given = list(listed("schedules", schedules))
    for each in given:
        if not isinstance(each, Schedule):
            raise ConfigurationError(f"schedules must be Schedule objects, not {each!r}")
    if isinstance(handlers, Handlers):
        handlers.refuse_undeclared()
    for handler in {id(each): each for each in handlers.values()}.values():
        if isinstance(handler, TypedHandler):
            given += handler.schedules
    return defined(given, MAX_PAYLOAD_BYTES)


def wrappers(hooks: Hooks | Sequence[Hooks], middleware: Sequence[Middleware]) -> tuple[Middleware, ...]:
    """Return the middleware around each attempt, outermost first: the hooks as middleware, then the given ones.

    Raises:
        ConfigurationError: an argument is not Hooks, or not middleware.
    """
    given = tuple(hooks) if isinstance(hooks, Sequence) else (hooks,)
    for each in given:
        if not isinstance(each, Hooks):
            raise ConfigurationError(f"hooks must be Hooks(before_job=..., after_job=...), not {each!r}")
        _check_callable("before_job must be a function of (ctx)", each.before_job, None)
        _check_callable("after_job must be a function of (ctx, *, result, error)", each.after_job, None, **_AFTER)
    layers = listed("middleware", middleware)
    for layer in layers:
        wanted = "middleware must be an async function of (ctx, call_next)"
        if not callable(layer) or isinstance(layer, type):
            raise ConfigurationError(f"{wanted}, not {layer!r}")
        _check_callable(wanted, layer, None, None)
    return (*map(with_hooks, given), *layers)


_AFTER = {"result": None, "error": None}


def _check_callable(wanted: str, function: Callable[..., Any] | None, *args: Any, **kwargs: Any) -> None:
    """Refuse a function that cannot be called with these arguments: otherwise every attempt would fail."""
    if function is None:
        return
    if not callable(function):
        raise ConfigurationError(f"{wanted}, not {function!r}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a built-in function
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ConfigurationError(f"{wanted}; of {function!r}: {error}") from None
