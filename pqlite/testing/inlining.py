"""Runs jobs as they are enqueued, so that a test sees at once what they do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

from pqlite.backoff import Backoff
from pqlite.events import Observer
from pqlite.handlers import AnyHandler, Middleware
from pqlite.job import Job
from pqlite.store.postgres import PgJobStore
from pqlite.testing.draining import drain
from pqlite.testing.memory import MemoryJobStore

_inside: ContextVar[Sequence[str]] = ContextVar("pqlite_inline", default=())
"""Not empty in the handlers of a drain in progress."""


@asynccontextmanager
async def inline(
    store: PgJobStore | MemoryJobStore,
    handlers: Mapping[str, AnyHandler],
    *,
    max_jobs: int = 1000,
    raises: bool = True,
    queues: Sequence[str] | None = None,
    backoff: Backoff | None = None,
    observers: Sequence[Observer] = (),
    resources: Mapping[str, Any] | None = None,
    middleware: Sequence[Middleware] = (),
) -> AsyncIterator[Callable[[], Awaitable[list[Job]]]]:
    """Within the block, `store.enqueue` and `enqueue_many` return when the jobs that are due have run.

        async with inline(store, handlers):
            await client.post("/orders")        # its job has run when this returns
            assert mailbox == ["your order"]

    In a synchronous test, on Starlette's TestClient:

        with TestClient(app) as client, client.portal.wrap_async_context_manager(inline(store, handlers)):
            client.post("/orders")

    A job that is enqueued on a connection of yours (`conn=`) is only visible after your commit. It runs with the next
    job
    that is enqueued without `conn`, at the end of the block, or when you call the function that the block yields:
    `await run()`. A job that a handler enqueues runs after that handler has ended, as in a worker.

    The arguments are those of `drain`, whose errors `enqueue` raises in its caller.
    """
    busy = asyncio.Lock()
    originals = {name: getattr(store, name) for name in ("enqueue", "enqueue_many")}
    nested = "enqueue" in vars(store)

    async def run() -> list[Job]:
        async with busy:
            # Tasks of handlers inherit it, because jobs that they enqueue are run by this drain. It is emptied at the
            # end of the drain, for tasks that live longer.
            inside = ["drain"]
            token = _inside.set(inside)
            try:
                return await drain(
                    store,
                    handlers,
                    max_jobs=max_jobs,
                    raises=raises,
                    queues=queues,
                    backoff=backoff,
                    observers=observers,
                    resources=resources,
                    middleware=middleware,
                )
            finally:
                inside.clear()
                _inside.reset(token)

    def running(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @wraps(original)
        async def enqueue_and_run(*args: Any, **kwargs: Any) -> Any:
            answer = await original(*args, **kwargs)
            if kwargs.get("conn") is None and not _inside.get():
                await run()
            return answer

        return enqueue_and_run

    for name, original in originals.items():
        setattr(store, name, running(original))
    try:
        yield run
        if store.started:
            await run()
    finally:
        for name, original in originals.items():
            if nested:
                setattr(store, name, original)
            else:
                delattr(store, name)
