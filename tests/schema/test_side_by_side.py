"""Several installations in one database."""

import asyncpg

from pqlite import JobStatus, PgJobStore, Worker, schema
from pqlite.schema import Patience
from tests.support import ended

NO_PATIENCE = Patience(lock_timeout=0.2, tries=1)


async def test_migrators_of_one_schema_do_not_wait_for_those_of_another(dsn: str, conn: asyncpg.Connection) -> None:
    rival = await asyncpg.connect(dsn)
    try:
        async with schema.steps.transaction(rival, "pqlite", NO_PATIENCE):
            assert await schema.migrate(conn, "other", patience=NO_PATIENCE)
    finally:
        await rival.close(timeout=5)


async def test_pruners_of_one_schema_do_not_keep_out_those_of_another(dsn: str, conn: asyncpg.Connection) -> None:
    await schema.migrate(conn, "other")
    prune = "select deleted from {}.prune(interval '0', interval '0', null, 10)"
    for name in ("pqlite", "other"):
        await conn.execute(
            f"insert into {name}.jobs (job_type, status, finished_at) values ('t', 'FAILED', now() - interval '1 day')"
        )
    rival = await asyncpg.connect(dsn)
    try:
        async with rival.transaction():
            assert await rival.fetchval(prune.format("pqlite")) == 1
            assert await conn.fetchval(prune.format("other")) == 1
    finally:
        await rival.close(timeout=5)


async def test_jobs_of_one_schema_wake_nobody_of_another(dsn: str, conn: asyncpg.Connection) -> None:
    await schema.migrate(conn, "other")
    heard: list[str] = []
    for name in ("pqlite", "other"):
        await conn.add_listener(schema.channel(name), lambda *args: heard.append(args[2]))

    await conn.fetchval("select pqlite.arm(60000)")
    await conn.execute("insert into other.jobs (job_type) values ('t')")
    await conn.execute("insert into pqlite.jobs (job_type) values ('t')")
    await conn.fetchval("select 1")

    assert heard == ["pqlite_wake"]


async def test_one_is_dropped_while_a_worker_of_the_other_works(dsn: str, conn: asyncpg.Connection) -> None:
    await schema.migrate(conn, "other")
    first, second = PgJobStore(dsn=dsn), PgJobStore(dsn=dsn, schema="other")
    async with second:
        await second.enqueue("t")
        async with Worker(store=first, handlers={"t": lambda ctx: ctx.store.schema}):
            before = await ended(first, await first.enqueue("t"))
            await schema.uninstall(conn, "other")
            after = await ended(first, await first.enqueue("t"))

    assert (before.status, after.status, after.result) == (JobStatus.DONE, JobStatus.DONE, "pqlite")
    assert await conn.fetchval("select to_regnamespace('other')") is None
    await schema.check(conn)
