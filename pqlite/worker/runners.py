"""Where handlers run that are not `async def`: away from the event loop, which goes on meanwhile.

A runner is called on the event loop, with a handler and its context, and returns when the handler has ended. `async
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
        """Run a function to its end, whoever cancels meanwhile: a thread cannot be cancelled, and a slot that is given
        away while it runs would let the same job run beside itself.
        """

        def call() -> Any:
            try:
                result = handler(context)
            except (SystemExit, KeyboardInterrupt) as error:
                # These would leave the event loop as soon as the thread's future ends.
                raise RuntimeError(f"the handler raised {error!r}") from error
            if not context._noticed_stop and not inspect.isawaitable(result):
                context._finished = True
            return result

        work = asyncio.ensure_future(anyio.to_thread.run_sync(call, limiter=self._limiter))
        with anyio.CancelScope(shield=True):  # a scope around it, of a middleware, would cancel in every round
            while not work.done():
                try:
                    await asyncio.wait([work])
                except asyncio.CancelledError:
                    pass  # whoever tears the event loop down cancels `work` as well
        return work.result()
