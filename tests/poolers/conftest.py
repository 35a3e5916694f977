"""Poolers in front of the tests' server."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from tests.conftest import Server
from tests.poolers.pgbouncer import PROGRAM, PgBouncer

Bounce = Callable[..., Awaitable[PgBouncer]]


@pytest.fixture
async def bounce(server: Server) -> AsyncIterator[Bounce]:
    """Return a function that starts a PgBouncer with these settings."""
    if PROGRAM is None:
        pytest.skip("pgbouncer is not installed (apt install pgbouncer)")
    async with AsyncExitStack() as stack:

        async def start(**settings: str) -> PgBouncer:
            return await stack.enter_async_context(PgBouncer(server.dsn, **settings))

        yield start
