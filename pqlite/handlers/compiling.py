"""A handler and what is around it become one callable, once, when a worker starts."""

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

InThread: TypeAlias = Callable[[Handler, JobContext], Awaitable[Any]]
"""Calls a plain function with a context in a thread; returns what it returns."""


def compiled(handler: AnyHandler, in_thread: InThread, middleware: Sequence[Middleware] = ()) -> tuple[Handler, bool]:
    """Return what runs an attempt of the handler, and whether it is to be called on the event loop (else in a thread).

    A plain handler without middleware is returned as it is: what is not used costs nothing.
    """
    if isinstance(handler, TypedHandler):
        call, on_loop = _typed(handler, in_thread)
    else:
        call, on_loop = handler, is_async(handler)
    if not middleware:
        return call, on_loop
    return wrapped(call if on_loop else _on_loop(call, in_thread), middleware), True


def _typed(handler: TypedHandler[..., Any, ..., Any], in_thread: InThread) -> tuple[Handler, bool]:
    function, arguments, runs_on_loop = handler.function, handler.payload.arguments, is_async(handler.function)
    if handler.signature.injected:
        return _injected(handler, in_thread), True
    if handler.takes_context:
        return lambda ctx: function(ctx, **arguments(ctx.job)), runs_on_loop
    return lambda ctx: function(**arguments(ctx.job)), runs_on_loop


def _injected(handler: TypedHandler[..., Any, ..., Any], in_thread: InThread) -> CallNext:
    """Return what makes the dependencies, calls the handler, and closes them.

    `handler.injection` is looked up for each attempt: tests replace it while a worker runs.
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
            # A decorated `async def` may look like a plain function: what it needs stays open until it has run.
            return _closing(result, stack.pop_all()) if inspect.isawaitable(result) else result

    return run


async def _closing(result: Awaitable[Any], stack: ExitStack) -> Any:
    with stack:
        return await result


def _on_loop(call: Handler, in_thread: InThread) -> CallNext:
    async def run(ctx: JobContext) -> Any:
        result = await in_thread(call, ctx)
        return await result if inspect.isawaitable(result) else result

    return run
