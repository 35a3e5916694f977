"""Runs handlers that are not `async def` away from the event loop, which they would block.

A runner is awaited on the event loop, with a handler and its context, and returns when the handler has ended. `async
def` handlers need none.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import anyio.to_thread

from pqlite.handlers import Handler, JobContext


class Threads:
    """Runs handlers in threads, `concurrency` at once."""

    def __init__(self, concurrency: int) -> None:
        self._limiter = anyio.CapacityLimiter(concurrency)

    async def run(self, handler: Handler, context: JobContext) -> Any:
        """Run a function to its end, even if this is cancelled: a thread cannot be cancelled. If its slot were
        freed while it runs, a second attempt of the job could run beside it.
        """

        def call() -> Any:
            try:
                result = handler(context)
            except (SystemExit, KeyboardInterrupt) as error:
                # asyncio would raise these out of the event loop, and end the app.
                raise RuntimeError(f"the handler raised {error!r}") from error
            if not context._noticed_stop and not inspect.isawaitable(result):
                context._finished = True
            return result

        work = asyncio.ensure_future(anyio.to_thread.run_sync(call, limiter=self._limiter))
        with anyio.CancelScope(shield=True):  # a cancelled scope, for example of middleware, cancels at every await
            while not work.done():
                try:
                    await asyncio.wait([work])
                except asyncio.CancelledError:
                    pass  # the end of the event loop cancels `work` as well
        return work.result()
