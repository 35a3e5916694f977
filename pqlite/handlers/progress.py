"""Limits how often the progress of a job is written."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from pqlite.errors import InvalidJob, LeaseLost

logger = logging.getLogger(__name__)

INTERVAL = 0.5
"""The shortest time between two writes for one job, in seconds."""


def progress_of(fraction: float | None, message: str | None, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON value that is stored.

    Raises:
        InvalidJob: the fraction is not a number from 0 to 1, or the message is not text.
    """
    if fraction is not None:
        if not isinstance(fraction, (int, float)) or isinstance(fraction, bool) or math.isnan(fraction):
            raise InvalidJob(f"progress must be a number from 0 to 1, not {fraction!r}")
        if not 0 <= fraction <= 1:
            raise InvalidJob(f"progress must be a number from 0 to 1, not {fraction!r}")
    if message is not None and not isinstance(message, str):
        raise InvalidJob(f"the message of a progress must be text, not {message!r}")
    value: dict[str, Any] = {"fraction": fraction, "message": message, "data": dict(data) or None}
    return {name: part for name, part in value.items() if part is not None}


class ProgressWriter:
    """Writes the progress of one attempt, the first at once, then at most one in each interval, the latest.

    Args:
        write: stores a value.
    """

    def __init__(self, write: Callable[[Any], Awaitable[None]]) -> None:
        self._write = write
        self._latest: Any = None
        self._waiting = False
        self._next = 0.0
        self._task: asyncio.Task[None] | None = None

    async def put(self, value: Any) -> None:
        """Write a value, or keep it for the next write."""
        loop = asyncio.get_running_loop()
        self._latest = value
        if self._task is not None and not self._task.done():
            self._waiting = True
        elif loop.time() >= self._next:
            await self._write_now()
        else:
            self._waiting = True
            self._task = loop.create_task(self._later(), name="pqlite progress")

    def close(self) -> None:
        """Write nothing more: the attempt has ended."""
        if self._task is not None:
            self._task.cancel()

    async def _later(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            await asyncio.sleep(self._next - loop.time())
            self._waiting = False
            with suppress(LeaseLost, InvalidJob):  # raised by the next call of `put`
                await self._write_now()

    async def _write_now(self) -> None:
        self._next = asyncio.get_running_loop().time() + INTERVAL
        try:
            await self._write(self._latest)
        except (LeaseLost, InvalidJob):
            raise
        except Exception as error:
            logger.debug("The progress of a job was not written: %r", error)
