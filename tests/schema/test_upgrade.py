"""From the schema of the release before to this one: what former clients call goes on working."""

import re
from pathlib import Path

import asyncpg

from pqlite import PgJobStore, schema
from tests.schema.conftest import DDL, Future
from tests.sql.psql import run_psql

PREVIOUS = Path(__file__).parent / "previous_release"
STATEMENTS = PREVIOUS.joinpath("statements.sql").read_text().splitlines()
"""What a worker and a store of that release send, one statement per line."""

OVERLOADED = """
    select p.proname from pg_proc p where p.pronamespace = 'pqlite'::regnamespace group by 1 having count(*) > 1
"""
DUE = (DDL / "functions" / "next_death.sql").read_text()
WIDER = "drop function if exists pqlite.next_death(text);\n" + re.sub(
    r"pqlite\.next_death\(([^)]*)\)", r"pqlite.next_death(\1, p_more int default 0)", DUE
)


async def test_after_an_upgrade_each_function_exists_once_and_every_former_statement_still_runs(empty_dsn: str) -> None:
    await run_psql(empty_dsn, PREVIOUS.joinpath("schema.sql").read_text())
    before = await asyncpg.connect(empty_dsn)
    try:
        prepared = {sql: (await before.prepare(sql)).get_attributes() for sql in STATEMENTS}

        async with PgJobStore(dsn=empty_dsn) as store:
            await store.migrate()

        assert await before.fetch(OVERLOADED) == []
        for sql, columns in prepared.items():
            now = (await before.prepare(sql)).get_attributes()
            assert [(c.name, c.type.name) for c in now[: len(columns)]] == [(c.name, c.type.name) for c in columns], sql
    finally:
        await before.close(timeout=5)


async def test_a_session_that_prepared_its_statements_before_an_upgrade_goes_on_using_them(empty_dsn: str) -> None:
    await run_psql(empty_dsn, PREVIOUS.joinpath("schema.sql").read_text())
    enqueue = next(sql for sql in STATEMENTS if "pqlite.enqueue(" in sql)
    retry = next(sql for sql in STATEMENTS if "pqlite.retry(" in sql)
    values = ("t", "{}", "k", None, None, 0, 5, None, "default", [], "{}", None, None, None)
    before = await asyncpg.connect(empty_dsn)
    try:
        statement, again = await before.prepare(enqueue), await before.prepare(retry)
        first = await statement.fetchrow(*values)

        async with PgJobStore(dsn=empty_dsn) as store:
            await store.migrate()

        async with before.transaction():
            assert tuple(first) == (1, True)
            assert tuple(await statement.fetchrow(*values)) == (1, False)
            assert await again.fetchval(1) == "READY"
    finally:
        await before.close(timeout=5)


async def test_a_function_that_is_made_anew_with_one_more_parameter_keeps_its_owner_and_its_grants(
    conn: asyncpg.Connection, future: Future
) -> None:
    who = """
        select p.proowner::regrole::text, array(select a.grantee::regrole || ' ' || a.is_grantable
                                                from aclexplode(p.proacl) a order by 1)
        from pg_proc p where p.pronamespace = 'pqlite'::regnamespace and p.proname = 'next_death'
    """
    await conn.execute("create role upgrade_owner; create role upgrade_caller; create role upgrade_granter")
    try:
        await conn.execute("grant usage, create on schema pqlite to upgrade_owner")
        await conn.execute("alter function pqlite.next_death owner to upgrade_owner")
        await conn.execute("grant execute on function pqlite.next_death to upgrade_caller")
        await conn.execute("grant execute on function pqlite.next_death to upgrade_granter with grant option")
        [before] = await conn.fetch(who)

        await schema.migrate(conn, root=future("-- pqlite: serves 1\nselect 1;", next_death=WIDER))

        assert await conn.fetch(who) == [before]
        assert await conn.fetch(OVERLOADED) == []
        await conn.fetch("select pqlite.next_death('w'), pqlite.next_death('w', 1)")
    finally:
        await conn.execute("drop owned by upgrade_owner, upgrade_caller, upgrade_granter")
        await conn.execute("drop role upgrade_owner, upgrade_caller, upgrade_granter")


async def test_a_workers_role_goes_on_after_an_upgrade_without_new_grants(empty_dsn: str) -> None:
    await run_psql(empty_dsn, PREVIOUS.joinpath("schema.sql").read_text())
    conn = await asyncpg.connect(empty_dsn)
    try:
        await conn.execute("""
            create role upgrade_worker; create role upgrade_producer;
            grant usage on schema pqlite to upgrade_worker, upgrade_producer;
            grant select, insert, update, delete on pqlite.jobs, pqlite.workers to upgrade_worker;
            grant execute on all routines in schema pqlite to upgrade_worker;
            revoke execute on procedure pqlite.replace_view from upgrade_worker;
            grant execute on function pqlite.enqueue to upgrade_producer;
        """)
        await schema.migrate(conn)
        await conn.execute("insert into pqlite.jobs (job_type, crashes) values ('t', 1)")

        await conn.execute("set role upgrade_worker")
        await conn.execute("select pqlite.register('w', 'w', 1, '20 s', '{}'); select pqlite.renew('w', '20 s', 1)")
        claim = "select id from pqlite.claim('w', 1, true, null, null, '{}', '{}', '{}', '{}', '{}', 0, '{\"t\": 1}')"
        assert len(await conn.fetch(claim)) == 1
        await conn.execute("select pqlite.reap('w')")
        for role, routine in (("worker", "replace_view"), ("producer", "current_epoch")):
            allowed = "select has_function_privilege($1, oid, 'execute') from pg_proc where proname = $2"
            assert not await conn.fetchval(allowed, f"upgrade_{role}", routine)
    finally:
        await conn.execute("reset role; drop owned by upgrade_worker, upgrade_producer")
        await conn.execute("drop role upgrade_worker, upgrade_producer")
        await conn.close(timeout=5)
