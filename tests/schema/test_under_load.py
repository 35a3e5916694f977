"""Migrating while everybody works."""

import asyncio
import time

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
WAITS = "select exists (select from pg_locks where pid = $1 and not granted)"
INDEX = "-- pqlite: no transaction\ncreate index concurrently if not exists jobs_extra on pqlite.jobs (created_at);"


async def test_nobody_waits_longer_than_a_step_waits_for_its_lock_and_no_job_or_call_is_lost(
    dsn: str, conn: asyncpg.Connection, future: Future
) -> None:
    roots = [future(*(COLUMN.format(n) for n in range(count + 1))) for count in range(4)]
    indexed = future(*(COLUMN.format(n) for n in range(4)), INDEX)
    waited: list[float] = []
    ids: list[int] = []
    working = True

    async def produce(store: PgJobStore) -> None:
        while working:
            begun = time.monotonic()
            ids.append(await store.enqueue("t", dedupe_key=f"key {len(ids)}" if len(ids) % 2 else None))
            waited.append(time.monotonic() - begun)

    log = EventLog()
    store = PgJobStore(dsn=dsn)
    pid = await conn.fetchval("select pg_backend_pid()")
    reader, watcher = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        async with Worker(store=store, handlers={"t": lambda ctx: None}, observers=[log]):
            async with asyncio.TaskGroup() as tasks:
                for _ in range(3):
                    tasks.create_task(produce(store))
                await until(lambda: len(ids) > 50)
                for root in roots:
                    async with reader.transaction():
                        await reader.execute("select from pqlite.jobs limit 1")
                        migrating = asyncio.create_task(schema.migrate(conn, patience=PATIENCE, root=root))
                        await until(lambda: watcher.fetchval(WAITS, pid), "the step to wait")
                        await until(lambda: watcher.fetchval(f"select not ({WAITS})", pid), "it to give up once")
                    assert len(await migrating) == 1
                    assert await schema.migrate(conn, patience=PATIENCE, root=root) == []
                assert len(await schema.migrate(conn, patience=PATIENCE, root=indexed)) == 1
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
