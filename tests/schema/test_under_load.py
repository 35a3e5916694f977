"""Migrating while everybody works."""

import asyncio
import time
from contextlib import suppress

import asyncpg

from pqlite import PgJobStore, Worker, schema
from pqlite.events import JobEnded, LoopFailed
from pqlite.schema import Patience
from tests.schema.conftest import Future
from tests.support import EventLog, until

PATIENCE = Patience(lock_timeout=0.5, tries=200, pause=0.2)
MARGIN = 3.0
"""What a loaded machine may add to a statement that waits for the lock timeout, in seconds."""
COLUMN = "-- pqlite: serves 1\nalter table pqlite.jobs add column extra_{} int default 7;"
INDEX = "-- pqlite: no transaction\ncreate index concurrently if not exists jobs_extra on pqlite.jobs (created_at);"


async def test_nobody_waits_longer_than_a_step_waits_for_its_lock_and_no_job_or_call_is_lost(
    dsn: str, conn: asyncpg.Connection, future: Future
) -> None:
    roots = [future(*(COLUMN.format(n) for n in range(count + 1))) for count in range(4)]
    roots.append(future(*(COLUMN.format(n) for n in range(4)), INDEX))
    waited: list[float] = []
    ids: list[int] = []
    working = True

    async def produce(store: PgJobStore) -> None:
        while working:
            begun = time.monotonic()
            ids.append(await store.enqueue("t", dedupe_key=f"key {len(ids)}" if len(ids) % 2 else None))
            waited.append(time.monotonic() - begun)

    async def read(reader: asyncpg.Connection, watcher: asyncpg.Connection) -> None:
        """Hold a lock that a step needs, until it has given up once; then let go for a moment."""
        while working:
            with suppress(TimeoutError):
                async with reader.transaction():
                    await reader.execute("select from pqlite.jobs limit 1")
                    async with asyncio.timeout(1.5):
                        await until(lambda: watcher.fetchval("select exists (select from pg_locks where not granted)"))
                        await until(
                            lambda: watcher.fetchval("select not exists (select from pg_locks where not granted)")
                        )
            await asyncio.sleep(0)

    log = EventLog()
    store = PgJobStore(dsn=dsn)
    reader, watcher = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        async with Worker(store=store, handlers={"t": lambda ctx: None}, observers=[log]):
            async with asyncio.TaskGroup() as tasks:
                for _ in range(3):
                    tasks.create_task(produce(store))
                tasks.create_task(read(reader, watcher))
                await until(lambda: len(ids) > 50)
                for root in roots:
                    assert len(await schema.migrate(conn, patience=PATIENCE, root=root)) == 1
                    assert await schema.migrate(conn, patience=PATIENCE, root=root) == []
                working = False
            left = "select count(*) from pqlite.jobs where status in ('READY', 'RUNNING')"
            await until(lambda: watcher.fetchval(f"select ({left}) = 0"), "the jobs to end")
    finally:
        await reader.close(timeout=5)
        await watcher.close(timeout=5)

    assert max(waited) < PATIENCE.lock_timeout + MARGIN
    assert log.of(LoopFailed) == []
    rows = await conn.fetch("select id, status, attempts from pqlite.jobs")
    assert {row["id"] for row in rows} == set(ids)
    assert {(row["status"], row["attempts"]) for row in rows} == {("DONE", 1)}
    assert len(log.of(JobEnded)) == len(ids)
