"""Scenes: on a database of the shared server, or on a server that the test may break."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from pqlite import schema
from pqlite.embedded import EmbeddedPostgres
from tests.conftest import Databases, fast_directory
from tests.faults.scene import Scene

Scenario = Callable[[Scene], Awaitable[None]]


@pytest.fixture
async def scene(dsn: str, tmp_path: Path) -> AsyncIterator[Scene]:
    async with Scene(dsn, tmp_path) as made:
        yield made


@pytest.fixture
def breakable(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[tuple[EmbeddedPostgres, Scene]]]:
    """Return a maker of scenes on servers of their own."""

    @asynccontextmanager
    async def make(**settings: str) -> AsyncIterator[tuple[EmbeddedPostgres, Scene]]:
        own = EmbeddedPostgres(fsync=False, port=0, settings=settings, temp_dir=fast_directory())
        async with own:
            conn = await asyncpg.connect(own.dsn)
            try:
                await schema.migrate(conn, schema="pqlite")
            finally:
                await conn.close()
            async with Scene(own.dsn, tmp_path) as scene:
                yield own, scene

    return make


@pytest.fixture(scope="module")
async def together(
    request: pytest.FixtureRequest, databases: Databases, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, asyncio.Task[None]]]:
    """Every selected scenario of the module, begun at once: they mostly wait, and they can do that side by side."""

    async def play(scenario: Scenario) -> None:
        async with databases.fresh(template) as dsn:
            async with Scene(dsn, tmp_path_factory.mktemp("scene")) as scene:
                await scenario(scene)

    scenarios = {
        item.function.__name__: item.function.scenario
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module and hasattr(item.function, "scenario")
    }
    tasks = {name: asyncio.create_task(play(scenario), name=f"scenario {name}") for name, scenario in scenarios.items()}
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
