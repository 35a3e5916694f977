"""For the few acts that a cancellation must not cut in two: a commit, a stop, a last write; and for the cancellations
that are not ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


async def uninterrupted(work: Coroutine[Any, Any, T], *, on_cancel: Callable[[], None] | None = None) -> T:
    """Await work to its end, whoever cancels meanwhile; the cancellation is delivered afterwards.

    `on_cancel` is called at each cancellation, to make the work hurry. An error of the work takes precedence over the
    cancellation. (A cancel scope alone does not do: a shield stops the scope's cancellations, not `Task.cancel`.)
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            # A scope, once it is cancelled, would cancel in every round: it is heard once.
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
    """Raise an error in place of a CancelledError, unless somebody has cancelled this very task: it is that of
    something the block awaited, such as a task that several share, and must not end what goes on.
    """
    try:
        yield
    except asyncio.CancelledError as cancelled:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise error(sentence) from cancelled
