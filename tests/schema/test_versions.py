"""Which pqlite may use which schema."""

import asyncpg
import pytest

from pqlite import JobStatus, PgJobStore, SchemaError, Worker, schema
from tests.schema.conftest import DDL, Future
from tests.support import ended

NEXT = schema.latest() + 1
COMPATIBLE = f"""-- pqlite: serves {NEXT - 1}
alter table pqlite.jobs add column region text not null default 'here';
create index jobs_region on pqlite.jobs (region);
"""
# As a later release would have it: the former signature and meaning, another body.
WAKE = (DDL / "functions" / "wake.sql").read_text().replace("v_now bigint", "-- later\n  v_now bigint")


async def test_an_older_schema_is_reported_with_the_command_to_run(
    conn: asyncpg.Connection, dsn: str, future: Future
) -> None:
    root = future("select 1;")

    sentence = rf"schema 'pqlite' is at version {NEXT - 1} and this pqlite needs {NEXT}; run 'pqlite migrate'"
    with pytest.raises(SchemaError, match=sentence):
        await schema.check(conn, root=root)
    assert await schema.migrate(conn, root=root) == [NEXT]
    await schema.check(conn, root=root)


async def test_a_worker_of_the_release_before_goes_on_on_a_schema_that_serves_it(
    dsn: str, conn: asyncpg.Connection, future: Future
) -> None:
    store = PgJobStore(dsn=dsn)
    worker = Worker(store=store, handlers={"t": lambda ctx: ctx.job.payload})
    async with worker:
        before = await ended(store, await store.enqueue("t", 1))
        assert await schema.migrate(conn, root=future(COMPATIBLE, wake=WAKE)) == [NEXT]
        after = await ended(store, await store.enqueue("t", 2, dedupe_key="k"))
        [(many, _)] = await store.enqueue_many([{"job_type": "t", "payload": 3}])
        last = await ended(store, many)

    assert [job.status for job in (before, after, last)] == [JobStatus.DONE] * 3


async def test_a_worker_of_the_release_before_starts_on_a_schema_that_serves_it_and_leaves_it_as_it_is(
    dsn: str, conn: asyncpg.Connection, future: Future
) -> None:
    root = future(COMPATIBLE, wake=WAKE)
    await schema.migrate(conn, root=root)

    store = PgJobStore(dsn=dsn)
    async with Worker(store=store, handlers={"t": lambda ctx: ctx.job.payload}):
        assert await store.migrate() == []
        job = await ended(store, await store.enqueue("t", 1))
        with_key = await store.enqueue("t", dedupe_key="k")
        await ended(store, with_key)

    assert job.status is JobStatus.DONE
    assert not (await schema.plan(conn, root=root)).functions, "the older pqlite has replaced the newer functions"


async def test_a_worker_refuses_a_schema_that_no_longer_serves_it_while_enqueueing_goes_on(
    dsn: str, conn: asyncpg.Connection, future: Future
) -> None:
    await schema.migrate(conn, root=future("select 1;"))

    store = PgJobStore(dsn=dsn)
    worker = Worker(store=store, handlers={"t": lambda ctx: None})
    sentence = rf"is at version {NEXT} and this pqlite knows {NEXT - 1}; run 'pip install --upgrade pqlite-queue'"
    with pytest.raises(SchemaError, match=sentence):
        async with worker:
            pass

    async with store:
        with pytest.raises(SchemaError, match=sentence):
            await store.migrate()
        job = await store.get(await store.enqueue("t"))
    assert (job.status, job.claims) == (JobStatus.READY, 0)


async def test_one_migration_that_breaks_is_enough_whatever_the_later_ones_serve(
    conn: asyncpg.Connection, future: Future
) -> None:
    await schema.migrate(conn, root=future("select 1;", f"-- pqlite: serves {NEXT - 1}\nselect 1;"))

    with pytest.raises(SchemaError, match="run 'pip install --upgrade"):
        await schema.check(conn)


async def test_a_schema_that_a_release_before_left_half_way_is_finished(empty_dsn: str, future: Future) -> None:
    conn = await asyncpg.connect(empty_dsn)
    try:
        assert await schema.migrate(conn, to=1) == [1]
        with pytest.raises(SchemaError, match="is at version 1 and this pqlite needs"):
            await schema.check(conn)
        await schema.migrate(conn)
        await schema.check(conn)
    finally:
        await conn.close(timeout=5)
