"""Middleware and hooks around every attempt of a worker."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from pqlite.handlers.context import JobContext

logger = logging.getLogger(__name__)

CallNext: TypeAlias = Callable[[JobContext], Awaitable[Any]]
"""Runs the rest of an attempt; returns what the handler returns, raises what it raises. A handler in a thread runs to
its end even if the call is cancelled, for example by a timeout around it.
"""

Middleware: TypeAlias = Callable[[JobContext, CallNext], Awaitable[Any]]
"""An `async def middleware(ctx, call_next)` around each attempt. Its result is the job's result, and its exception ends
the attempt: return what `call_next(ctx)` returns, and do not catch what that raises.
"""


class AfterJob(Protocol):
    """Called when a handler has ended. `error` is what it raised, None if it returned its `result`."""

    def __call__(self, ctx: JobContext, /, *, result: Any, error: BaseException | None) -> Awaitable[None] | None:
        """Receive the result or the error."""
        ...


@dataclass(frozen=True, slots=True)
class Hooks:
    """Functions, plain or `async def`, called at the beginning and the end of each attempt. They run on the event loop
    and are part of the attempt: a timeout, or another reason to stop, cancels them like the handler.

        async def before(ctx: JobContext) -> None: ...

        def after(ctx: JobContext, *, result: Any, error: BaseException | None) -> None: ...

        Worker(store, handlers, hooks=Hooks(before_job=before, after_job=after))

    An exception of `before_job` ends the attempt as if the handler had raised it. `after_job` is called whenever
    `before_job` has returned, also after a cancellation; its exceptions are logged and ignored. To change the outcome
    of an attempt, use middleware.
    """

    before_job: Callable[[JobContext], Awaitable[None] | None] | None = None
    after_job: AfterJob | None = None


def with_hooks(hooks: Hooks) -> Middleware:
    """Return hooks as middleware."""

    async def around(ctx: JobContext, call_next: CallNext) -> Any:
        if hooks.before_job is not None:
            await _awaited(hooks.before_job(ctx))
        try:
            result = await call_next(ctx)
        except BaseException as error:
            await _after(hooks, ctx, None, error)
            raise
        await _after(hooks, ctx, result, None)
        return result

    return around


def wrapped(call: CallNext, middleware: Sequence[Middleware]) -> CallNext:
    """Return the call with the middleware around it, the first one outermost."""
    for each in reversed(middleware):
        call = _around(each, call)
    return call


def _around(middleware: Middleware, call_next: CallNext) -> CallNext:
    def call(ctx: JobContext) -> Awaitable[Any]:
        return middleware(ctx, call_next)

    return call


async def _after(hooks: Hooks, ctx: JobContext, result: Any, error: BaseException | None) -> None:
    if hooks.after_job is None:
        return
    try:
        await _awaited(hooks.after_job(ctx, result=result, error=error))
    except Exception:
        logger.exception("after_job failed for job %s (%s).", ctx.job.id, ctx.job.job_type)


async def _awaited(answer: Awaitable[None] | None) -> None:
    if answer is not None and inspect.isawaitable(answer):  # `isawaitable` costs more than calling the hook
        await answer
