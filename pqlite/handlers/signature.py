"""Reads a function's signature: which parameter takes the context, which are injected, which are the payload."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from pqlite.callables import Kind, kind_of
from pqlite.errors import ConfigurationError
from pqlite.handlers.context import JobContext

_MISSING = inspect.Parameter.empty


def refuse_generator(handler: Callable[..., Any], title: str) -> None:
    """Refuse a generator function as a handler: calling it would not run its body.

    Raises:
        ConfigurationError: it is a generator function.
    """
    if kind_of(handler) in (Kind.GENERATOR, Kind.ASYNC_GENERATOR):
        raise ConfigurationError(f"{title} has a `yield`; a handler returns its result. Only a dependency may yield")


@dataclass(frozen=True, slots=True)
class Dependency:
    """The default value that marks an injected parameter."""

    call: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Signature:
    """A function's parameters.

    `context` is the name of the parameter that takes the JobContext, and `leads` says whether it is the first.
    `payload` has the annotation and the default (or `inspect.Parameter.empty`) of the parameters that are neither the
    context nor injected. `positional` has the names of those that may be passed by position, without the context.
    """

    context: str | None
    leads: bool
    injected: Mapping[str, Dependency]
    payload: Mapping[str, tuple[Any, Any]]
    positional: tuple[str, ...]


def signature_of(function: Callable[..., Any], title: str, *, data: bool = True) -> Signature:
    """Return a function's parameters.

    With `data=False`, for a dependency, the other parameters are no payload, and their annotations are not checked.

    Raises:
        ConfigurationError: the signature cannot be read, or has a parameter that cannot be filled.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError, NameError) as error:
        if not data and not isinstance(error, NameError):
            return Signature(None, False, {}, {}, ())  # a built-in function
        raise ConfigurationError(f"The signature of {title} cannot be read: {error}") from None
    first = next(iter(parameters.values()), None)
    context: str | None = None
    leads = False
    injected: dict[str, Dependency] = {}
    payload: dict[str, tuple[Any, Any]] = {}
    positional: list[str] = []
    for name, parameter in parameters.items():
        where = f"Parameter {name!r} of {title}"
        if data and parameter is first and name in ("self", "cls") and parameter.annotation is _MISSING:
            raise ConfigurationError(f"{where} is that of a method: declare a function instead")
        if isinstance(parameter.default, Dependency):
            injected[name] = parameter.default
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            if data:
                raise ConfigurationError(f"{where} takes any number of arguments; a job's arguments have names")
            continue
        else:
            annotation = _resolved(parameter, function, where, data)
            if annotation is JobContext:
                if context is not None:
                    raise ConfigurationError(f"{where} is a second JobContext; only one is allowed")
                context = name
                leads = parameter is first and parameter.kind is not parameter.KEYWORD_ONLY
                continue
            _refuse_marks(annotation, parameter.default, where)
            payload[name] = annotation, parameter.default
        if parameter.kind is parameter.POSITIONAL_ONLY and data:
            raise ConfigurationError(f"{where} is positional-only; a job's arguments have names")
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            positional.append(name)
    return Signature(context, leads, injected, payload, tuple(positional))


def _resolved(parameter: inspect.Parameter, function: Callable[..., Any], where: str, data: bool) -> Any:
    """Return the annotation as an object. With `data=False`, return `Any` if it cannot be resolved."""
    annotation = parameter.annotation
    if annotation is _MISSING:
        return JobContext if parameter.name == "ctx" else Any
    try:
        annotation = _evaluated(annotation, function)
    except Exception as error:
        if isinstance(annotation, str) and annotation.rpartition(".")[2] == "JobContext":
            return JobContext
        if not data:
            return Any
        raise ConfigurationError(
            f"{where} has the annotation {annotation!r}, which cannot be resolved: {error}. It is needed when the "
            f"program runs: define or import it at the top of the module, not in a function or under TYPE_CHECKING"
        ) from None
    kinds = get_args(annotation) if get_origin(annotation) in (Annotated, Union, UnionType) else (annotation,)
    return JobContext if any(isinstance(k, type) and issubclass(k, JobContext) for k in kinds) else annotation


def returned_by(function: Callable[..., Any], title: str) -> Any:
    """Return a function's return annotation as an object, Any without one.

    Raises:
        ConfigurationError: it cannot be resolved.
    """
    annotation = inspect.signature(function).return_annotation
    if annotation is _MISSING:
        return Any
    try:
        return _evaluated(annotation, function)
    except Exception as error:
        raise ConfigurationError(
            f"The return annotation of {title}, {annotation!r}, cannot be resolved: {error}. It is needed to read "
            f"results: import it at the top of the module, not under TYPE_CHECKING"
        ) from None


def is_plain(annotation: Any, atoms: frozenset[Any]) -> bool:
    """Return whether an annotation is an atom, or a list, a dictionary with string keys or an optional of such."""
    try:
        if annotation in atoms:
            return True
    except TypeError:
        return False  # such as an Annotated with unhashable metadata
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is dict:
        return parts[0] is str and is_plain(parts[1], atoms)
    optional = origin in (Union, UnionType) and len(parts) == 2 and NoneType in parts
    return (origin is list or optional) and all(is_plain(part, atoms) for part in parts)


def _evaluated(annotation: Any, function: Callable[..., Any]) -> Any:
    """Return one annotation of the function as an object, even if its other annotations cannot be resolved."""
    holder = type("holder", (), {"__annotations__": {"it": annotation}})
    return get_type_hints(holder, globalns=_globals(function), include_extras=True)["it"]


def _globals(function: Any) -> dict[str, Any]:
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function)
    if isinstance(function, type):
        return vars(sys.modules[function.__module__])
    if not hasattr(function, "__globals__"):
        function = getattr(type(function).__call__, "__func__", type(function).__call__)
    return getattr(function, "__globals__", {})


def _refuse_marks(annotation: Any, default: Any, where: str) -> None:
    """Refuse Depends and Field in places where they would have no effect."""
    marks = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    if any(isinstance(mark, Dependency) for mark in marks):
        raise ConfigurationError(f"{where} has Depends in its annotation; make it the default value: = Depends(...)")
    if isinstance(default, FieldInfo):
        raise ConfigurationError(f"{where} has Field as its default value; put it in its annotation: Annotated[...]")
    if default is _MISSING and any(isinstance(mark, FieldInfo) and not mark.is_required() for mark in marks):
        raise ConfigurationError(f"{where} has its default value in Field; make it the default of the parameter")
    for mark in (default, *marks):
        if type(mark).__name__ == "Depends" and type(mark).__module__.partition(".")[0] == "fastapi":
            raise ConfigurationError(f"{where} has FastAPI's Depends, which needs a request; use pqlite.Depends")
