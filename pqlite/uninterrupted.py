"""For the few acts that a cancellation must not cut in two: a commit, a stop, a last write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
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


def is_cancelled() -> bool:
    """Return whether somebody has cancelled this very task. If not, a CancelledError is that of something it awaited,
    such as a task that several share: an error like another, which must not end what goes on.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
