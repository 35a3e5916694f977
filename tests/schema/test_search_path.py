"""Whoever may create functions in a schema of our search path runs none of them as us."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from pqlite import PgJobStore, SchemaError, Worker, adoption, schema
from tests.cli.test_migrate import run_script
from tests.schema import pqrun
from tests.schema.conftest import Future
from tests.sql.psql import run_psql
from tests.support import ended

FUNCTIONS = (
    "hashtextextended(text, int) returns bigint",
    "concat_ws(text, boolean, text) returns text",
    "concat_ws(text, name, text[], pg_node_tree) returns text",
    'concat_ws(text, name, name, oid, smallint, "char") returns text',
    "acldefault(text, oid) returns aclitem[]",
    "format(text, name, name) returns text",
    "format(text, name, text) returns text",
    "format(text, name, regclass) returns text",
    "format(text, text, text) returns text",
    "string_agg(text, text) returns text",
    "setval(text, bigint) returns bigint",
    "pg_has_role(regrole, text) returns boolean",
    "pg_try_advisory_lock(text) returns boolean",
    "string_to_array(text, text, text) returns text[]",
)
OPERANDS = (("oid", "regnamespace"), ("oid", "regclass"), ("oid", "int"), ("name", "text"), ("jsonb", "text[]"))


@pytest.fixture
async def hostile_dsn(empty_dsn: str) -> AsyncIterator[str]:
    """A database in whose `public` another role has made what fits our calls better than what we mean; each of them
    says who called it, and fails.
    """
    conn = await asyncpg.connect(empty_dsn)
    role = f"mallory_{await conn.fetchval('select pg_backend_pid()')}"
    body = "language plpgsql as $$ begin raise exception 'planted, and called by %', session_user; end $$"
    await conn.execute(f"create role {role}; grant create, usage on schema public to {role}; set role {role}")
    try:
        for function in FUNCTIONS:
            await conn.execute(f"create function public.{function} {body}")
        for left, right in OPERANDS:
            await conn.execute(
                f"create function public.planted({left}, {right}) returns boolean {body};"
                f"create operator public.= (leftarg = {left}, rightarg = {right}, function = public.planted);"
                f"create operator public.<> (leftarg = {left}, rightarg = {right}, function = public.planted)"
            )
        yield empty_dsn
    finally:
        await conn.execute(f"reset role; drop owned by {role} cascade; drop role {role}")
        await conn.close(timeout=5)


@pytest.fixture
async def migrator(hostile_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(hostile_dsn)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def test_no_planted_function_or_operator_is_called_by_migrating_or_looking_or_dropping(
    migrator: asyncpg.Connection, future: Future
) -> None:
    later = future("alter table pqlite.jobs add column extra int;")

    await schema.migrate(migrator)
    await schema.migrate(migrator, root=later)
    assert not (await schema.plan(migrator, root=later)).functions
    await schema.census(migrator)
    await schema.uninstall(migrator)

    assert not await migrator.fetchval("select exists (select from pg_namespace where nspname = 'pqlite'::name)")


async def test_none_is_called_by_adopting(migrator: asyncpg.Connection) -> None:
    await schema.migrate(migrator)
    await pqrun.install(migrator)
    await migrator.execute(
        "alter table jobs add column tenant text; grant select on jobs to pg_monitor;"
        "insert into jobs (job_type, dedupe_key) values ('t', 'k'), ('t', null)"
    )

    await adoption.survey(migrator)

    assert await adoption.adopt(migrator) == 2


async def test_none_is_called_by_the_scripts_for_psql(hostile_dsn: str, migrator: asyncpg.Connection) -> None:
    await run_script(hostile_dsn, schema.script("planted", to=1))
    await run_script(hostile_dsn, schema.script("planted", since=1))
    assert not (await schema.plan(migrator, "planted")).functions

    try:
        await run_psql(hostile_dsn, schema.roles("planted"))
    finally:
        for role in ("migrator", "worker", "producer", "viewer"):
            await migrator.execute(
                f"do $$ begin if to_regrole('planted_{role}') is not null then "
                f"execute 'drop owned by planted_{role} cascade; drop role planted_{role}'; end if; end $$"
            )


async def test_none_is_called_by_a_worker(hostile_dsn: str, migrator: asyncpg.Connection) -> None:
    await schema.migrate(migrator)
    # Not the operators: the driver looks types up with comparisons of its own.
    for operands in OPERANDS:
        await migrator.execute(f"drop function public.planted({', '.join(operands)}) cascade")
    store = PgJobStore(dsn=hostile_dsn)

    async with Worker(store=store, handlers={"t": lambda ctx: None}):
        one = await store.enqueue("t")
        many = await store.enqueue_many([{"job_type": "t", "dedupe_key": "k"}, {"job_type": "t"}])

        for id_ in (one, *(enqueued.id for enqueued in many)):
            assert (await ended(store, id_)).attempts == 1


async def test_looking_in_a_callers_transaction_leaves_its_search_path_as_it_was(conn: asyncpg.Connection) -> None:
    await conn.execute("set search_path = public, pg_temp")
    async with conn.transaction():
        await conn.execute("set local search_path = pqlite")

        await schema.check(conn)
        await schema.census(conn)
        assert await conn.fetchval("show search_path") == "pqlite"
        with pytest.raises(SchemaError):
            await schema.check(conn, "nowhere")
        assert await conn.fetchval("show search_path") == "pqlite"

    assert await conn.fetchval("show search_path") == "public, pg_temp"
