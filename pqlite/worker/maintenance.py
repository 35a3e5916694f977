"""The connection of everything that may take its time: looks for jobs, takeovers, audits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pqlite.store.engine import Engine

T = TypeVar("T")


class Maintenance:
    """Runs one operation after the other on a connection that nothing urgent uses: neither claims, nor outcomes, nor
    the renewals of the worker's lease.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = asyncio.Lock()

    async def run(self, operation: Callable[[Engine], Awaitable[T]]) -> T:
        """Run an operation, and return what it returns, when those before it have ended: its deadline begins then.

        Raises: what the operation raises. A cancellation while it runs costs the connection, which is made again.
        """
        async with self._turn:
            return await operation(self._engine)

    async def close(self, seconds: float = 1.0) -> None:
        """Close the connection."""
        await self._engine.link.close(seconds)
