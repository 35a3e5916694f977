"""Dependencies: objects that a handler needs beside its payload, opened for each attempt and closed after it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, overload

from pqlite.callables import Kind, kind_of
from pqlite.errors import ConfigurationError
from pqlite.handlers.context import JobContext
from pqlite.handlers.signature import Dependency, signature_of

T = TypeVar("T")

Replacements: TypeAlias = Mapping[Callable[..., Any], Callable[..., Any]]
"""The functions to call instead of the keys."""

NONE: Replacements = {}


@overload
def Depends(dependency: Callable[..., AsyncIterator[T]]) -> T: ...
@overload
def Depends(dependency: Callable[..., Iterator[T]]) -> T: ...
@overload
def Depends(dependency: Callable[..., Coroutine[Any, Any, T]]) -> T: ...
@overload
def Depends(dependency: Callable[..., T]) -> T: ...
def Depends(dependency: Callable[..., Any]) -> Any:
    """Mark a parameter as injected: `async def send(to: str, pool: Pool = Depends(get_pool))`.

    The parameter is not part of the payload. The dependency is called once for each attempt, even if several parameters
    use it, with its own dependencies and with the JobContext if it has a parameter for that. It may be a function, a
    class, or a generator that yields once: the code after the `yield` runs after the attempt, in reverse order, with
    the exception if there was one (which it cannot suppress). Each of these may be async.

    Plain functions and generators are called on the event loop and must not block. For a plain `def` handler whose
    dependencies are all plain, all of them run in the handler's thread.
    """
    if not callable(dependency):
        raise ConfigurationError(f"Depends takes a function, not {dependency!r}")
    return Dependency(dependency)


@dataclass(frozen=True, slots=True)
class _Step:
    """One call. `arguments` are parameter names, each with the number of the step whose value it gets, or None for the
    context.
    """

    call: Callable[..., Any]
    kind: Kind
    arguments: tuple[tuple[str, int | None], ...]

    def with_values(self, ctx: JobContext, values: Sequence[Any]) -> dict[str, Any]:
        return {name: ctx if step is None else values[step] for name, step in self.arguments}


class Injection:
    """Provides the values of a function's injected parameters, by calls in the order of their dependencies.

    Raises:
        ConfigurationError: a dependency has a parameter that cannot be filled, or depends on itself.
    """

    def __init__(self, injected: Mapping[str, Dependency], replaced: Replacements = NONE) -> None:
        self._replaced = replaced
        self._steps: list[_Step] = []
        self._places: dict[Callable[..., Any], int] = {}
        self._asked: set[Callable[..., Any]] = set()
        self._injected = injected
        self._parameters = {name: self._place(each.call, ()) for name, each in injected.items()}
        self.plain = all(step.kind in (Kind.FUNCTION, Kind.GENERATOR) for step in self._steps)
        """Whether no dependency is async."""

    def _place(self, call: Callable[..., Any], inside: tuple[Callable[..., Any], ...]) -> int:
        self._asked.add(call)
        call = self._replaced.get(call, call)
        if call in inside:
            raise ConfigurationError(f"The dependency {_title(call)} depends on itself")
        if call not in self._places:
            signature = signature_of(call, f"the dependency {_title(call)}", data=False)
            for name, (_, default) in signature.payload.items():
                if default is inspect.Parameter.empty:
                    raise ConfigurationError(
                        f"Parameter {name!r} of the dependency {_title(call)} has no value: it needs a default, such "
                        f"as Depends(...), or the annotation JobContext"
                    )
            arguments: list[tuple[str, int | None]] = [
                (name, self._place(each.call, (*inside, call))) for name, each in signature.injected.items()
            ]
            if signature.context is not None:
                arguments.append((signature.context, None))
            kind = kind_of(call)
            self._places[call] = len(self._steps)
            self._steps.append(_Step(_opener(call, kind), kind, tuple(arguments)))
        return self._places[call]

    def asks_for(self, call: Callable[..., Any]) -> bool:
        """Return whether the function is one of the dependencies, even if it is replaced."""
        return call in self._asked

    def replacing(self, replaced: Replacements) -> Injection:
        """Return a copy with these replacements, in addition to those that it has.

        Raises:
            ConfigurationError: a replacement cannot be called, or depends on itself.
        """
        return Injection(self._injected, {**self._replaced, **replaced})

    async def enter(self, ctx: JobContext, stack: AsyncExitStack) -> dict[str, Any]:
        """Return the parameters' values; generators are closed by the stack."""
        values: list[Any] = []
        for step in self._steps:
            made = step.call(**step.with_values(ctx, values))
            match step.kind:
                case Kind.GENERATOR:
                    made = _opened(made, stack)
                case Kind.ASYNC_GENERATOR:
                    made = await _opened_async(made, stack)
                case _ if inspect.iscoroutine(made):  # also of a plain function that called an `async def`
                    made = await made
            values.append(made)
        return {name: values[step] for name, step in self._parameters.items()}

    def enter_plain(self, ctx: JobContext, stack: ExitStack) -> dict[str, Any]:
        """The same without an event loop, for dependencies that are all `plain`."""
        values: list[Any] = []
        for step in self._steps:
            made = step.call(**step.with_values(ctx, values))
            if inspect.iscoroutine(made):
                made.close()
                raise ConfigurationError(
                    f"The dependency {_title(step.call)} returned a coroutine in a thread; make it an `async def`"
                )
            values.append(_opened(made, stack) if step.kind is Kind.GENERATOR else made)
        return {name: values[step] for name, step in self._parameters.items()}


def _opener(call: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
    match kind:
        case Kind.ASYNC_GENERATOR:
            return asynccontextmanager(call)
        case Kind.GENERATOR:
            return contextmanager(call)
        case _:
            return call


def _opened(manager: AbstractContextManager[Any], stack: ExitStack | AsyncExitStack) -> Any:
    """Enter a generator, and close it with the stack. If it suppresses an error, the other generators still get it."""
    value = manager.__enter__()

    def close(*error: Any) -> None:
        manager.__exit__(*error)

    stack.push(close)
    return value


async def _opened_async(manager: AbstractAsyncContextManager[Any], stack: AsyncExitStack) -> Any:
    value = await manager.__aenter__()

    async def close(*error: Any) -> None:
        await manager.__aexit__(*error)

    stack.push_async_exit(close)
    return value


def _title(call: Callable[..., Any]) -> str:
    return str(getattr(call, "__qualname__", None) or repr(call))
