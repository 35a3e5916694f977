"""Opens and closes `ctx.resources` for one run of a worker."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

from pqlite.errors import ConfigurationError

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 3.0

Resources: TypeAlias = Mapping[str, Any] | Callable[[], AbstractAsyncContextManager[Mapping[str, Any]]] | None
"""A mapping, or a function that returns an async context manager of one."""


def resources_of(given: Resources) -> Resources:
    """Return the given resources.

    Raises:
        ConfigurationError: they are neither a mapping nor a function.
    """
    if given is None or isinstance(given, Mapping) or callable(given):
        return given
    raise ConfigurationError(
        f"resources must be a mapping, or a function that returns an async context manager of one, not {given!r}"
    )


@asynccontextmanager
async def open_resources(
    resources: Resources, stopped: asyncio.Event, seconds: Callable[[], float]
) -> AsyncIterator[Mapping[str, Any]]:
    """Yield the mapping; enter and exit its context manager in this task.

    Entering is cancelled when `stopped` is set; exiting after 3 seconds, or `seconds()` if that is less. A failure to
    exit is logged: no attempt needs the resources any more.

    Raises:
        TimeoutError: entering was cancelled.
        ConfigurationError: the function did not return a context manager, or it did not yield a mapping.
        Exception: what entering raised.
    """
    if resources is None or isinstance(resources, Mapping):
        yield {} if resources is None else resources  # not a copy, even if it is empty: the caller may add to it
        return
    manager: Any = resources()
    if not isinstance(manager, AbstractAsyncContextManager):
        if inspect.iscoroutine(manager):
            manager.close()
        raise ConfigurationError(
            f"resources returned {manager!r}, not an async context manager: it must be an `async def` that yields a "
            f"mapping once, decorated with contextlib.asynccontextmanager"
        )
    made = await _enter(manager, stopped)
    try:
        if not isinstance(made, Mapping):
            raise ConfigurationError(f"resources must yield a mapping of names to objects, not {made!r}")
        yield made
    finally:
        try:
            async with asyncio.timeout(min(CLOSE_SECONDS, seconds())):
                await manager.__aexit__(None, None, None)
        except Exception:
            logger.exception("The worker's resources did not close.")


async def _enter(manager: AbstractAsyncContextManager[Mapping[str, Any]], stopped: asyncio.Event) -> Mapping[str, Any]:
    async with asyncio.timeout(None) as timeout:
        entering = True

        def give_up(_: asyncio.Task[Any]) -> None:
            if entering:
                timeout.reschedule(asyncio.get_running_loop().time())

        watching = asyncio.create_task(stopped.wait())
        watching.add_done_callback(give_up)
        try:
            return await manager.__aenter__()
        finally:
            entering = False
            watching.cancel()
