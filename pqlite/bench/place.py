"""The schemas of a run: created for it, marked, and dropped at its end. Nothing else is changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from pqlite.bench.errors import BenchError
from pqlite.uninterrupted import uninterrupted

if TYPE_CHECKING:
    from pqlite.bench.contenders.base import Connection, Contender

MARK = "Made by 'pqlite bench', which drops it at its end."
DEADLOCK_PAUSE = 0.2
_LOCK = "select pg_try_advisory_lock(hashtextextended('pqlite bench', 0))"
_COMMENT = "select obj_description(oid, 'pg_namespace') from pg_namespace where nspname = $1"
_EXISTS = "select exists (select from pg_namespace where nspname = $1)"


@asynccontextmanager
async def schemas(conn: Connection, dsn: str, contenders: Sequence[Contender]) -> AsyncIterator[None]:
    """Make each contender's schema and what it keeps there; drop them all afterwards, whatever happens.

    Raises:
        BenchError: another run is under way in this database, or a schema of that name was not created by the
        benchmarks.
    """
    if not await conn.fetchval(_LOCK):
        raise BenchError("Another 'pqlite bench' is running in this database; wait for it, or use another database.")
    for contender in contenders:
        await _refuse_foreign(conn, contender.schema)
    try:
        for contender in contenders:
            await _drop(conn, contender.schema)
            await _create(conn, contender.schema)
            await contender.install(conn, dsn)
        yield
    finally:
        await uninterrupted(_drop_all(conn, dsn, [contender.schema for contender in contenders]))


async def _refuse_foreign(conn: Connection, schema: str) -> None:
    if await conn.fetchval(_EXISTS, schema) and await conn.fetchval(_COMMENT, schema) != MARK:
        raise BenchError(
            f"There is a schema {schema!r} that 'pqlite bench' did not make. Nothing was changed: rename it, or use "
            "another database."
        )


async def _create(conn: Connection, schema: str) -> None:
    async with conn.transaction():
        await conn.execute(f'create schema "{schema}"')
        await conn.execute(f"""comment on schema "{schema}" is '{MARK.replace("'", "''")}'""")


async def _drop(conn: Connection, schema: str) -> None:
    while True:
        try:
            await conn.execute(f'drop schema if exists "{schema}" cascade')
        except asyncpg.DeadlockDetectedError:
            # A session whose process has ended may still execute its last statement.
            await asyncio.sleep(DEADLOCK_PAUSE)
        else:
            return


async def _drop_all(conn: Connection, dsn: str, names: Sequence[str]) -> None:
    # The connection may have been lost, or cut off in the middle of a statement.
    fresh = await asyncpg.connect(dsn) if conn.is_closed() else None
    try:
        for name in names:
            await _drop(fresh or conn, name)
    finally:
        if fresh is not None:
            await fresh.close()
