"""The connection for slow operations that are not urgent: scans for jobs, takeovers, audits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pqlite.store.engine import Engine

T = TypeVar("T")


class Maintenance:
    """Runs operations one after the other on a connection that claims, outcomes and lease renewals do not use."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = asyncio.Lock()

    async def run(self, operation: Callable[[Engine], Awaitable[T]]) -> T:
        """Run an operation after those before it, and return its result. Its deadline begins when it starts.

        Raises: what the operation raises. If it is cancelled, the connection is closed; the next operation reconnects.
        """
        async with self._turn:
            return await operation(self._engine)

    async def close(self, seconds: float = 1.0) -> None:
        """Close the connection."""
        await self._engine.link.close(seconds)
