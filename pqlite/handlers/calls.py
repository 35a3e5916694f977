"""Compiles a handler, its dependencies and the middleware around it into one callable, when a worker starts."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import Any, TypeAlias

from pqlite.callables import is_async
from pqlite.handlers.context import JobContext
from pqlite.handlers.dependencies import Injection
from pqlite.handlers.middleware import CallNext, Middleware, wrapped
from pqlite.handlers.plain import AnyHandler, Handler
from pqlite.handlers.typed import TypedHandler

Runner: TypeAlias = Callable[[Handler, JobContext], Awaitable[Any]]
"""Calls a plain function with a context, away from the event loop, and returns its result. See worker/runners.py."""


def compiled(handler: AnyHandler, in_thread: Runner, middleware: Sequence[Middleware] = ()) -> CallNext:
    """Return an async callable that runs one attempt of the handler on the event loop.

    A plain `async def` handler without middleware is returned as it is, so that it has no overhead.
    """
    if isinstance(handler, TypedHandler):
        return wrapped(_typed(handler, in_thread), middleware)
    return wrapped(handler if is_async(handler) else _on_loop(handler, in_thread), middleware)


def _typed(handler: TypedHandler[..., Any, ..., Any], in_thread: Runner) -> CallNext:
    function, arguments = handler.function, handler.payload.arguments
    if handler.signature.injected:
        return _injected(handler, in_thread)

    def with_context(ctx: JobContext) -> Any:
        return function(ctx, **arguments(ctx.job))

    def without(ctx: JobContext) -> Any:
        return function(**arguments(ctx.job))

    call = with_context if handler.takes_context else without
    return call if is_async(function) else _on_loop(call, in_thread)


def _injected(handler: TypedHandler[..., Any, ..., Any], in_thread: Runner) -> CallNext:
    """Return a callable that opens the dependencies, calls the handler, and closes them.

    `handler.injection` is read for each attempt, because tests replace it while a worker runs.
    """
    function, arguments, runs_on_loop = handler.function, handler.payload.arguments, is_async(handler.function)
    takes_context = handler.takes_context

    def called(ctx: JobContext, given: dict[str, Any], injected: dict[str, Any]) -> Any:
        return function(ctx, **given, **injected) if takes_context else function(**given, **injected)

    async def run(ctx: JobContext) -> Any:
        injection = handler.injection
        if not runs_on_loop and injection.plain:
            result = await in_thread(lambda _: all_in_one(ctx, injection), ctx)
            return await result if inspect.isawaitable(result) else result
        given = arguments(ctx.job)
        async with AsyncExitStack() as stack:
            injected = await injection.enter(ctx, stack)
            if runs_on_loop:
                result = called(ctx, given, injected)
            else:
                result = await in_thread(lambda _: called(ctx, given, injected), ctx)
            return await result if inspect.isawaitable(result) else result

    def all_in_one(ctx: JobContext, injection: Injection) -> Any:
        given = arguments(ctx.job)
        with ExitStack() as stack:
            result = called(ctx, given, injection.enter_plain(ctx, stack))
            # A decorated `async def` may look like a plain function: its dependencies stay open until it has run.
            return _closing(result, stack.pop_all()) if inspect.isawaitable(result) else result

    return run


async def _closing(result: Awaitable[Any], stack: ExitStack) -> Any:
    with stack:
        return await result


def _on_loop(call: Handler, in_thread: Runner) -> CallNext:
    async def run(ctx: JobContext) -> Any:
        result = await in_thread(call, ctx)
        return await result if inspect.isawaitable(result) else result

    return run
