"""What ends an epoch: everything that frees the advisory locks of all sessions."""

import os
import signal
from collections.abc import AsyncIterator
from datetime import datetime

import asyncpg
import pytest

from pqlite import schema
from pqlite.embedded import EmbeddedPostgres
from tests.conftest import fast_directory
from tests.support import until


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[EmbeddedPostgres]:
    """A server that the tests may break."""
    own = EmbeddedPostgres(fsync=False, port=0, temp_dir=fast_directory())
    async with own:
        conn = await asyncpg.connect(own.dsn)
        await schema.migrate(conn, schema="pqlite")
        await conn.close()
        yield own


async def epoch(server: EmbeddedPostgres) -> str:
    conn = await asyncpg.connect(server.dsn)
    try:
        return str(await conn.fetchval("select pqlite.current_epoch()"))
    finally:
        await conn.close()


async def test_an_epoch_outlives_sessions(server: EmbeddedPostgres) -> None:
    assert await epoch(server) == await epoch(server)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_ends_an_epoch(server: EmbeddedPostgres, mode: str) -> None:
    before = await epoch(server)

    await server.restart(mode)  # type: ignore[arg-type]

    assert await epoch(server) != before


async def test_a_crash_of_one_backend_which_ends_all_sessions_ends_an_epoch(server: EmbeddedPostgres) -> None:
    before = await epoch(server)
    conn = await asyncpg.connect(server.dsn)
    started = await conn.fetchval("select pg_postmaster_start_time()")

    os.kill(await conn.fetchval("select pg_backend_pid()"), signal.SIGKILL)
    await until(conn.is_closed, "the session to end")

    async def back() -> datetime | None:
        try:
            again = await asyncpg.connect(server.dsn)
            try:
                return await again.fetchval("select pg_postmaster_start_time()")
            finally:
                again.terminate()
        except (OSError, asyncpg.PostgresError):
            return None

    assert await until(back, "the server to recover") == started
    assert await epoch(server) != before
