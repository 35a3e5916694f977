"""Checks of functions that users pass, and whether calling them returns a coroutine or a generator."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from enum import Enum, auto
from functools import partial
from typing import Any

from pqlite.errors import ConfigurationError


class Kind(Enum):
    """What calling a function returns: a COROUTINE, a generator, or with FUNCTION any other value."""

    FUNCTION = auto()
    COROUTINE = auto()
    GENERATOR = auto()
    ASYNC_GENERATOR = auto()


def kind_of(call: Callable[..., Any]) -> Kind:
    """Return what calling a function, a method, a class or an object with `__call__` returns."""
    while isinstance(call, partial):
        call = call.func
    for function in (call, None if isinstance(call, type) else getattr(call, "__call__", None)):  # noqa: B004
        if inspect.isasyncgenfunction(function):
            return Kind.ASYNC_GENERATOR
        if inspect.isgeneratorfunction(function):
            return Kind.GENERATOR
        if inspect.iscoroutinefunction(function):
            return Kind.COROUTINE
    return Kind.FUNCTION


def is_async(call: Callable[..., Any]) -> bool:
    """Return whether calling it returns a coroutine, so that it must run on the event loop."""
    return kind_of(call) is Kind.COROUTINE


def listed(what: str, functions: Sequence[Any]) -> tuple[Any, ...]:
    """Return a list of functions as a tuple.

    Raises:
        ConfigurationError: it is not a list; the message calls it `what`.
    """
    if callable(functions) or isinstance(functions, str):
        raise ConfigurationError(f"{what} must be a list, {what}=[function], not {functions!r}")
    try:
        return tuple(functions)
    except TypeError:
        raise ConfigurationError(f"{what} must be a list of functions, not {functions!r}") from None
