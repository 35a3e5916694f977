"""What is dropped, and what is not."""

import asyncio
import re

import asyncpg
import pytest

from pqlite import PgJobStore, SchemaError, Worker, schema
from pqlite.schema import Patience
from tests.cli.process import pqlite
from tests.support import until

NAMESPACE = "select to_regnamespace($1)::text"
MILL = "insert into pqlite.workers (id, label, lease_until) values ('m', 'mill', now() + interval '1 minute')"


@pytest.mark.parametrize("name", ["pqlite", "user"])
async def test_nothing_is_left_of_the_schema_and_nothing_else_is_touched(conn: asyncpg.Connection, name: str) -> None:
    everything = "select count(*) from pg_depend where refobjid <> coalesce(to_regnamespace($1), 0)"
    if name == "pqlite":
        await schema.uninstall(conn, name)
    before = await conn.fetchval(everything, f'"{name}"')

    await schema.migrate(conn, name)
    await schema.uninstall(conn, name)

    assert await conn.fetchval(NAMESPACE, f'"{name}"') is None
    assert await conn.fetchval(everything, f'"{name}"') == before


async def test_a_schema_that_is_not_there_or_not_pqlites_is_not_dropped(conn: asyncpg.Connection) -> None:
    await conn.execute("create schema app")

    for name in ("nowhere", "app", "public"):
        for act in (schema.census, schema.uninstall):
            with pytest.raises(SchemaError, match=f"The database has no schema '{name}' of pqlite."):
                await act(conn, name)
    assert await conn.fetchval(NAMESPACE, "app") == "app"


async def test_it_refuses_while_a_worker_is_alive_unless_forced(dsn: str, conn: asyncpg.Connection) -> None:
    async with Worker(store=PgJobStore(dsn=dsn), handlers={"t": print}, worker_id="mill"):
        with pytest.raises(SchemaError, match="Workers are alive: mill"):
            await schema.uninstall(conn)
        await schema.check(conn)
    await conn.execute(
        "insert into pqlite.workers (id, label, lease_until) values ('gone', 'gone', now() - interval '1 minute'), "
        "('here', 'here', now() + interval '1 minute')"
    )
    with pytest.raises(SchemaError, match="Workers are alive: here"):
        await schema.uninstall(conn)

    await schema.uninstall(conn, force=True)
    assert await conn.fetchval(NAMESPACE, "pqlite") is None


async def test_a_refusal_waits_for_no_lock_and_so_nobody_waits_for_it(dsn: str, conn: asyncpg.Connection) -> None:
    other = await asyncpg.connect(dsn)
    await conn.execute(MILL)
    try:
        async with other.transaction():
            await other.execute("update pqlite.jobs set priority = 0; select from pqlite.workers for key share")

            with pytest.raises(SchemaError, match="Workers are alive: mill"):
                await schema.uninstall(conn, patience=Patience(0.001, tries=1, pause=0.0))
    finally:
        await other.close(timeout=5)


async def test_who_comes_while_it_waits_for_the_jobs_is_seen(dsn: str, conn: asyncpg.Connection) -> None:
    other, watcher = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        async with other.transaction():
            await other.execute("update pqlite.jobs set priority = 0")
            dropping = asyncio.create_task(schema.uninstall(conn))
            await until(lambda: watcher.fetchval("select count(*) from pg_locks where not granted"), "it to wait")
            await watcher.execute(MILL)

        with pytest.raises(SchemaError, match="Workers are alive: mill"):
            await dropping
    finally:
        await other.close(timeout=5)
        await watcher.close(timeout=5)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("update pqlite.jobs set priority = 0", "select from pqlite.workers for key share"),  # a claim
        ("update pqlite.workers set renewed_at = now()", "select from pqlite.jobs"),  # a renewal
    ],
)
async def test_even_a_forced_one_ends_in_no_deadlock_with_those_who_take_the_tables_in_either_order(
    dsn: str, conn: asyncpg.Connection, first: str, second: str
) -> None:
    other, watcher = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    await conn.execute(MILL)
    await other.execute("set deadlock_timeout = '10ms'")  # of a deadlock it would be the victim
    try:
        async with other.transaction():
            await other.execute(first)
            quick = Patience(lock_timeout=20.0, tries=200, pause=0.05)
            dropping = asyncio.create_task(schema.uninstall(conn, force=True, patience=quick))
            looks = "select query ilike 'rollback%' or wait_event_type = 'Lock' from pg_stat_activity where pid = $1"
            pid = conn.get_server_pid()
            await until(lambda: watcher.fetchval(looks, pid), "it to meet the other")
            await other.execute(second)
        await dropping
    finally:
        await other.close(timeout=5)
        await watcher.close(timeout=5)
    assert await conn.fetchval(NAMESPACE, "pqlite") is None


@pytest.mark.parametrize(
    ("act", "named"),
    [
        ("create table pqlite.mine (id serial)", "table pqlite.mine"),
        ("create table pqlite.wake_9 ()", "table pqlite.wake_9"),
        ("create type pqlite.mood as enum ('good')", "type pqlite.mood"),
        ("create view pqlite.open as select * from pqlite.jobs", "view pqlite.open"),
        ("create procedure pqlite.mine() language sql as 'select 1'", "procedure pqlite.mine()"),
        ("create function pqlite.mine() returns int language sql as 'select 1'", "function pqlite.mine()"),
    ],
)
async def test_it_refuses_a_schema_that_holds_foreign_objects_and_names_them(
    conn: asyncpg.Connection, act: str, named: str
) -> None:
    await conn.execute(act)

    with pytest.raises(SchemaError, match=f"has objects that pqlite did not create: {re.escape(named)}"):
        await schema.uninstall(conn, force=True)

    assert named in (await schema.census(conn)).foreign
    await schema.check(conn)


@pytest.mark.parametrize(
    ("act", "named"),
    [
        ("create table orders (job bigint references pqlite.jobs)", "orders"),
        ("create view open_jobs as select * from pqlite.jobs", "open_jobs"),
        ("create view stopped as select pqlite.cancel(1)", "stopped"),
    ],
)
async def test_it_refuses_while_objects_elsewhere_depend_on_the_schema(
    conn: asyncpg.Connection, act: str, named: str
) -> None:
    await conn.execute(act)

    with pytest.raises(SchemaError, match=f"Objects elsewhere depend on the schema 'pqlite': .*{named}"):
        await schema.uninstall(conn, force=True)

    await schema.check(conn)
    assert not (await schema.plan(conn)).functions


async def test_it_gives_up_when_somebody_keeps_the_table_and_says_who(dsn: str, conn: asyncpg.Connection) -> None:
    other = await asyncpg.connect(dsn, server_settings={"application_name": "nightly report"})
    try:
        async with other.transaction():
            await other.execute("select from pqlite.jobs")
            with pytest.raises(SchemaError, match="nightly report"):
                await schema.uninstall(conn, patience=Patience(0.1, tries=2, pause=0.0))
    finally:
        await other.close(timeout=5)
    await schema.check(conn)


# The command


async def test_the_command_says_what_it_would_drop_and_drops_it_only_when_told(
    dsn: str, conn: asyncpg.Connection
) -> None:
    await conn.execute(
        "insert into pqlite.jobs (job_type, status) values ('t', 'READY'), ('t', 'READY'), ('t', 'DONE')"
    )

    asked = await pqlite("uninstall", "--dsn", dsn)
    assert (asked.status, asked.err) == (0, "")
    assert asked.out.startswith(f"Would drop the schema 'pqlite' at version {schema.latest()}: ")
    tables = await conn.fetchval("select count(*) from pg_tables where schemaname = 'pqlite'")
    assert f"{tables} tables" in asked.out
    assert asked.out.endswith("Jobs: 1 DONE, 2 READY.\nNothing was changed; say --yes to do it.\n")
    await schema.check(conn)

    done = await pqlite("uninstall", "--dsn", dsn, "--yes")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("Dropped the schema 'pqlite'")
    again = await pqlite("uninstall", "--dsn", dsn, "--yes")
    assert (again.status, again.out, again.err) == (1, "", "The database has no schema 'pqlite' of pqlite.\n")


async def test_the_command_names_what_stands_in_the_way(dsn: str, conn: asyncpg.Connection) -> None:
    await conn.execute("create table pqlite.mine ()")
    await conn.execute(MILL)

    asked = await pqlite("uninstall", "--dsn", dsn)
    refused = await pqlite("uninstall", "--dsn", dsn, "--yes")

    assert asked.status == 0
    assert "Workers are alive: mill." in asked.out
    assert "would refuse: table pqlite.mine." in asked.out
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == "Workers are alive: mill. Stop them first, or use --force.\n"
