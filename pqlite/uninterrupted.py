"""Protects work such as a commit or a stop from cancellation, and a loop from the cancellation of another task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


async def uninterrupted(work: Coroutine[Any, Any, T], *, on_cancel: Callable[[], None] | None = None) -> T:
    """Await work to its end, even if this task is cancelled; the cancellation is raised afterwards.

    `on_cancel` is called at each cancellation, and can make the work end sooner. An error of the work takes precedence
    over the cancellation. (A shielded cancel scope is not enough: it does not stop `Task.cancel`.)
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            # A cancelled scope cancels at every await: shield after the first time.
            with anyio.CancelScope(shield=cancelled is not None):
                await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
            if on_cancel is not None:
                on_cancel()
    result = task.result()
    if cancelled is not None:
        raise cancelled
    return result


@contextmanager
def others_cancellation_as(error: type[Exception], sentence: str) -> Iterator[None]:
    """Raise an error in place of a CancelledError that does not come from a cancellation of this task, but from
    something that the block awaited, such as a task that several callers share.
    """
    try:
        yield
    except asyncio.CancelledError as cancelled:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise error(sentence) from cancelled
