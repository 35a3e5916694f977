import asyncio
import re
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from pqlite import PgJobStore, SchemaError, schema
from pqlite.outcome import Outcome, Verb
from pqlite.schema import migrating
from pqlite.store.engine import Lane, Mark

DDL = Path(schema.__file__).parents[2] / "ddl"


async def test_migrating_twice_applies_each_version_once(empty_dsn: str) -> None:
    async with PgJobStore(dsn=empty_dsn) as store:
        assert await store.migrate() == [version for version, _, _ in schema.migrations()]
        assert await store.migrate() == []
        await store.check_schema()
        await store.enqueue("t")


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
async def test_five_at_once_migrate_once_whatever_isolation_their_sessions_start_with(
    empty_dsn: str, isolation: str
) -> None:
    settings = {"default_transaction_isolation": isolation}
    connections = [await asyncpg.connect(empty_dsn, server_settings=settings) for _ in range(5)]
    try:
        async with asyncio.TaskGroup() as tasks:
            runs = [tasks.create_task(schema.migrate(connection)) for connection in connections]
    finally:
        for connection in connections:
            await connection.close(timeout=5)

    everything = [version for version, _, _ in schema.migrations()]
    assert sorted(applied for run in runs for applied in run.result()) == everything


async def test_a_migration_with_nothing_to_do_does_not_wait_for_an_open_transaction_that_enqueued(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    """Every process may migrate when it starts: while it waited for a lock of the table, all enqueues would too."""
    await conn.execute("set lock_timeout = '2s'")
    async with store.transaction() as own:
        await store.enqueue("t", conn=own)

        assert await schema.migrate(conn) == []


# Side by side


async def test_two_schemas_in_one_database_know_nothing_of_each_other(dsn: str) -> None:
    async with PgJobStore(dsn=dsn) as first, PgJobStore(dsn=dsn, schema="other_1") as second:
        await second.migrate()
        for store in (first, second):
            assert await store.enqueue("t", {"in": store.schema}, dedupe_key="k") == 1
            assert await store.enqueue("t", dedupe_key="k") == 1
            assert [tuple(v) for v in await store.enqueue_many([{"job_type": "t", "dedupe_key": "k"}])] == [(1, False)]

        for store in (first, second):
            engine = store.engine("test")
            await engine.register("w", "w", None, timedelta(seconds=20), {})
            [head] = await engine.lanes(None, None)
            [(_, [job])], _ = await engine.claim(
                "w", 10, suspect=True, queues=None, types=None, lanes=[(head.lane, Mark(head.mark.run_after, 0))]
            )
            assert (head.lane, job.payload) == (Lane("default", "t", 0), {"in": store.schema})
            assert await engine.settle("w", [Outcome(job, Verb.DONE)]) == []
            assert await store.retry(1) == "READY"
            picked = await store.pickup("me")
            assert picked is not None
            async with store.complete(picked):
                pass
            assert await store.prune(timedelta(0), timedelta(0)) == (None, 1)
            assert await engine.reap("w") == []
            assert await engine.unregister("w")
            await engine.link.close()


async def test_dropping_one_schema_leaves_the_other_working(dsn: str, conn: asyncpg.Connection) -> None:
    await schema.migrate(conn, "other")
    await conn.execute("drop schema pqlite cascade")

    async with PgJobStore(dsn=dsn, schema="other") as store:
        await store.check_schema()
        await store.enqueue_many([{"job_type": "t", "dedupe_key": "k"}])
        assert await store.pickup("me") is not None


@pytest.mark.parametrize("name", ["user", "pqlite_wake", "a" * 41, "_", "jobs"])
async def test_any_name_the_rule_allows_works_even_a_reserved_word(empty_dsn: str, name: str) -> None:
    async with PgJobStore(dsn=empty_dsn, schema=name) as store:
        await store.migrate()
        await store.check_schema()
        await store.enqueue("t", dedupe_key="k")
        await store.enqueue_many([{"job_type": "t", "dedupe_key": "k"}])
        job = await store.pickup("me")
        assert job is not None
        await store.mark_done(job)


# Versions


async def test_a_missing_schema_is_reported_with_the_command_to_run(empty_dsn: str) -> None:
    async with PgJobStore(dsn=empty_dsn) as store, PgJobStore(dsn=empty_dsn, schema="other") as other:
        with pytest.raises(SchemaError, match=r"no schema 'pqlite' of pqlite; run 'pqlite migrate' or await store"):
            await store.check_schema()
        with pytest.raises(SchemaError, match=r"no schema 'other' of pqlite; run 'pqlite migrate --schema other'"):
            await other.check_schema()


async def test_a_newer_schema_is_neither_used_nor_migrated(store: PgJobStore, conn: asyncpg.Connection) -> None:
    newest = schema.latest()
    await conn.execute("insert into pqlite.migrations (version, name) values ($1, 'future')", newest + 1)

    sentence = rf"is at version {newest + 1} and this pqlite knows {newest}; run 'pip install --upgrade pqlite-queue'"
    for verb in (store.check_schema, store.migrate):
        with pytest.raises(SchemaError, match=sentence):
            await verb()


async def test_a_server_older_than_fourteen_is_refused(
    conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrating, "MINIMUM_SERVER", 990000)

    with pytest.raises(SchemaError, match="pqlite needs PostgreSQL 14 or newer; this server is 1"):
        await schema.migrate(conn)


# The files


@pytest.mark.parametrize("file", sorted((DDL / "functions").glob("*.sql")), ids=lambda file: file.name)
def test_a_functions_file_makes_the_function_of_its_name_and_says_what_it_is_for(file: Path) -> None:
    text = file.read_text(encoding="utf-8")

    # Before it stands at most what drops the former function of that name, which may have had other parameters.
    assert re.search(r"\A(?:(?:drop function|do \$\$).*?;\n)?(?:end \$\$;\n)?-- ", text, re.DOTALL)
    assert re.findall(r"create or replace (?:function|procedure) (\S+?)\(", text) == [f"pqlite.{file.stem}"]


@pytest.mark.parametrize("file", sorted((DDL / "views").glob("*.sql")), ids=lambda file: file.name)
def test_a_views_file_makes_the_view_of_its_name_and_says_what_it_is_for(file: Path) -> None:
    text = file.read_text(encoding="utf-8")

    assert text.startswith("-- ")
    assert re.findall(r"replace_view\('(\w+)'", text) == [file.stem]


TABLES = r"jobs|workers|migrations|wake_\w+"


@pytest.mark.parametrize("file", sorted(DDL.rglob("*.sql")), ids=lambda file: file.name)
def test_no_statement_relies_on_the_search_path(file: Path) -> None:
    text = re.sub(r"--.*", "", file.read_text(encoding="utf-8"))

    unqualified = re.findall(rf"\b(?:from|join|into|update|table|on|only)\s+(?:{TABLES})\b", text)
    functions = "|".join(path.stem for path in (DDL / "functions").glob("*.sql"))
    calls = re.findall(rf"(?:perform|select|from|function)\s+(?:{functions})\s*\(", text)

    assert unqualified + calls == []


async def test_every_index_is_explained_where_it_is_made(conn: asyncpg.Connection) -> None:
    migrations = "\n".join(sql for _, _, sql in schema.migrations())
    indexes = await conn.fetch(
        "select c.relname from pg_index i join pg_class c on c.oid = i.indexrelid "
        "where c.relnamespace = 'pqlite'::regnamespace and not i.indisprimary"
    )

    assert indexes
    for (index,) in indexes:
        created = rf"^ *-- .*\n *create (unique )?index (concurrently )?(if not exists )?{index} on"
        assert re.search(created, migrations, re.MULTILINE), index


ALLOWED = ["enqueue_many", "fire_schedules"]


async def test_no_other_function_opens_a_subtransaction(conn: asyncpg.Connection) -> None:
    """An EXCEPTION block is a savepoint, and many of them in one transaction stall standbys: more than 64 do. Two need
    them, to go on after a lock that timed out and after a schedule that fails.
    """
    sources = await conn.fetch(
        "select proname, prosrc from pg_proc where pronamespace = 'pqlite'::regnamespace order by 1"
    )

    assert len(sources) == len(list((DDL / "functions").glob("*.sql")))
    assert [name for name, source in sources if re.search(r"\bexception\s+when\b", source)] == ALLOWED


async def test_what_runs_with_the_owners_rights_has_a_fixed_search_path(conn: asyncpg.Connection) -> None:
    definers = await conn.fetch(
        "select proname, proconfig[1] from pg_proc where pronamespace = 'pqlite'::regnamespace and prosecdef order by 1"
    )

    assert {row[0] for row in definers} >= {"cancel", "enqueue", "fire_schedules"}
    assert {row[1] for row in definers} == {"search_path=pg_catalog, pg_temp"}
