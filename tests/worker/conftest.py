"""A worker for a test: `async with running(...) as worker`, with an event log to wait on."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from pqlite import Handler, PgJobStore, Worker
from tests.support import EventLog

Run = Callable[..., AbstractAsyncContextManager[Worker]]


@pytest.fixture
def log() -> EventLog:
    return EventLog()


@pytest.fixture
async def store(store: PgJobStore) -> AsyncIterator[PgJobStore]:
    """The test's store; connections that were made for the parts of a worker are closed after the test."""
    engines: list[Any] = []

    def kept(make: Callable[..., Any]) -> Callable[..., Any]:
        def making(*args: Any) -> Any:
            engines.append(make(*args))
            return engines[-1]

        return making

    store.engine = kept(store.engine)  # type: ignore[method-assign]
    store.listening_engine = kept(store.listening_engine)  # type: ignore[method-assign]
    yield store
    for engine in engines:
        await engine.link.close()


@pytest.fixture
def run(store: PgJobStore, log: EventLog) -> Run:
    """Run a worker on the test's store with these handlers, by job type; options go to Worker."""

    @asynccontextmanager
    async def running(handlers: dict[str, Handler], **options: Any) -> AsyncIterator[Worker]:
        worker = Worker(store=store, handlers=handlers, observers=[log], **options)
        async with worker:
            yield worker

    return running
