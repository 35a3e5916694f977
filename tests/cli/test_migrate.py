import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import anyio
import asyncpg
import pytest

from pqlite import schema
from pqlite.cli import database, main
from pqlite.cli.failure import Failure
from tests.cli.process import COMMAND, environment, pqlite

# One row per object of a schema: what it is, and its whole definition.
CATALOG = """
with space as (select oid from pg_namespace where nspname = $1),
tables as (select c.* from pg_class c, space where c.relnamespace = space.oid)
select 'relation', relname, relkind::text || coalesce(reloptions::text, '') from tables
union all
select 'column', relname || '.' || attname,
       concat_ws(' ', attnum, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated,
                 pg_get_expr(adbin, adrelid), col_description(tables.oid, attnum))
from tables
join pg_attribute on attrelid = tables.oid and attnum > 0
left join pg_attrdef on adrelid = tables.oid and adnum = attnum
union all
select 'index', relname, pg_get_indexdef(oid) from tables where relkind = 'i'
union all
select 'constraint', conname, pg_get_constraintdef(pg_constraint.oid)
from pg_constraint, space where connamespace = space.oid
union all
select 'function', oid::regprocedure::text, pg_get_functiondef(oid)
from pg_proc where pronamespace = (select oid from space)
union all
select 'trigger', tgname, pg_get_triggerdef(pg_trigger.oid)
from pg_trigger join tables on tgrelid = tables.oid where not tgisinternal
union all
select 'comment', relname, obj_description(oid, 'pg_class') from tables
order by 1, 2, 3
"""


async def catalog(dsn: str, name: str) -> list[tuple[str, ...]]:
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(CATALOG, name)]
    finally:
        await connection.close()


async def run_script(dsn: str, script: str) -> None:
    """Run a script of psql's; through asyncpg, without psql's own commands, where there is no psql."""
    if shutil.which("psql") is not None:
        with tempfile.TemporaryFile() as file:  # a pipe would break if psql stops at an error
            file.write(script.encode())
            file.seek(0)
            await anyio.run_process(["psql", "--no-psqlrc", "--quiet", dsn], stdin=file, env=environment())
        return
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("\n".join(line for line in script.splitlines() if not line.startswith("\\")))
    finally:
        await connection.close()


async def test_migrate_names_the_migrations_it_applied_to_an_empty_database(empty_dsn: str) -> None:
    ran = await pqlite("migrate", "--dsn", empty_dsn)

    assert (ran.status, ran.err) == (0, "")
    assert ran.out == "".join(f"Applied {version:04d}_{name}.\n" for version, name, _ in schema.migrations())
    assert await catalog(empty_dsn, "pqlite")


async def test_a_second_migrate_finds_nothing_to_do_and_changes_nothing(empty_dsn: str) -> None:
    await pqlite("migrate", "--dsn", empty_dsn)
    before = await catalog(empty_dsn, "pqlite")

    ran = await pqlite("migrate", env={"DATABASE_URL": empty_dsn})

    assert (ran.status, ran.err) == (0, "")
    assert ran.out == f"Nothing to do: the schema is at version {schema.latest()}.\n"
    assert await catalog(empty_dsn, "pqlite") == before


@pytest.mark.parametrize("name", ["pqlite", "jobs_of_2"])
async def test_the_printed_sql_builds_what_migrate_builds(dsn: str, empty_dsn: str, name: str) -> None:
    migrated = await pqlite("migrate", "--dsn", dsn, "--schema", name)
    printed = await pqlite("migrate", "--sql", "--schema", name)

    await run_script(empty_dsn, printed.out)

    assert (migrated.status, printed.status, printed.err) == (0, 0, "")
    expected = await catalog(dsn, name)
    assert {kind for kind, *_ in expected} == {
        "relation", "column", "index", "constraint", "function", "trigger", "comment"
    }  # fmt: skip
    assert await catalog(empty_dsn, name) == expected
    assert (await pqlite("migrate", "--dsn", empty_dsn, "--schema", name)).out.startswith("Nothing to do")


def test_the_reader_of_the_printed_sql_may_stop_early() -> None:
    reader, writer = os.pipe()
    os.close(reader)

    ran = subprocess.run([*COMMAND, "migrate", "--sql"], stdout=writer, stderr=subprocess.PIPE, env=environment())

    os.close(writer)
    assert (ran.returncode, ran.stderr) == (1, b"")


async def test_a_schema_from_the_future_is_refused_in_a_sentence(dsn: str, conn: asyncpg.Connection) -> None:
    await conn.execute("insert into pqlite.migrations (version, name) values (9000, 'future')")

    ran = await pqlite("migrate", "--dsn", dsn)

    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("The database's schema 'pqlite' is at version 9000")
    assert len(ran.err.splitlines()) == 1


async def test_without_a_database_it_says_how_to_give_one() -> None:
    ran = await pqlite("migrate", env={"PQLITE_DSN": "", "DATABASE_URL": ""})

    assert (ran.status, ran.out, ran.err) == (2, "", f"{database.NOT_GIVEN}\n")
    for way in ("--dsn", "PQLITE_DSN", "DATABASE_URL", "PGHOST"):
        assert way in ran.err


async def test_an_unreachable_database_is_a_sentence_without_the_password() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]

        ran = await pqlite("migrate", env={"PQLITE_DSN": f"postgresql://app:s3cret@127.0.0.1:{port}/app"})

    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("The database of PQLITE_DSN cannot be reached: ")
    assert str(port) in ran.err
    assert "s3cret" not in ran.err
    assert len(ran.err.splitlines()) == 1


async def test_a_refusal_of_the_server_is_a_sentence(dsn: str) -> None:
    elsewhere = urlsplit(dsn)._replace(path="/no_such_database").geturl()

    ran = await pqlite("migrate", "--dsn", elsewhere)

    assert (ran.status, ran.out) == (1, "")
    assert ran.err == 'The database of --dsn refused: database "no_such_database" does not exist.\n'


@pytest.mark.parametrize(
    ("dsn", "status", "says"),
    [
        ("app:s3cret@db.example/app", 2, "must begin with postgresql://."),
        ("mysql+aiomysql://app:s3cret@db.example/app", 2, "postgresql://, not mysql+aiomysql://."),
        ("postgresql://app:s3cret", 2, "has a port that is not a number"),
        ("postgresql://app:x@[s3cret:1/app", 1, "must look like postgresql://"),
        ("postgresql://app:x@[s3cret]tail:1/app", 1, "must look like postgresql://"),
        ("postgresql://app@db.example/app?s3cret", 2, "must look like postgresql://"),
        ("postgresql://app:s3cret@db.example/app?sslmode=none", 1, "`sslmode` parameter must be one of"),
    ],
)
def test_a_malformed_dsn_is_refused_without_being_quoted(
    dsn: str, status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["migrate", "--dsn", dsn]) == status

    said = capsys.readouterr()
    assert says in said.err
    assert "s3cret" not in said.err + said.out
    assert len(said.err.splitlines()) == 1


def test_a_schema_name_that_sql_would_have_to_quote_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["migrate", "--sql", "--schema", "Jobs-2"])

    assert exit_.value.code == 2
    assert "schema is 'Jobs-2'; it must be lower-case letters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "environ", "source"),
    [
        ("postgresql://a/", {"PQLITE_DSN": "postgresql://b/"}, "--dsn"),
        (None, {"DATABASE_URL": "postgres://c/", "PQLITE_DSN": "postgresql://b/"}, "PQLITE_DSN"),
        (None, {"DATABASE_URL": "postgres://c/", "PGHOST": "d"}, "DATABASE_URL"),
        (None, {"PGHOST": "d", "PGSERVICE": "shop"}, "PGSERVICE"),
        (None, {"PGDATABASE": "app"}, "PGDATABASE"),
    ],
)
def test_the_nearest_source_of_an_address_wins(given: str | None, environ: dict[str, str], source: str) -> None:
    assert database.address(given, environ).source == source


def test_variables_that_name_no_database_do_not_count_as_one() -> None:
    with pytest.raises(Failure, match="No database is given"):
        database.address(None, {"PGUSER": "app", "PGPASSWORD": "s3cret", "PGPORT": "5433"})


@pytest.fixture
async def libpq(empty_dsn: str) -> dict[str, str]:
    """The address of an empty database in libpq's words."""
    address, query = urlsplit(empty_dsn), parse_qs(urlsplit(empty_dsn).query)
    words = {
        "host": address.hostname or query.get("host", [""])[0],
        "port": str(address.port or query.get("port", ["5432"])[0]),
        "user": address.username or "",
        "password": address.password or "",
        "dbname": address.path.removeprefix("/"),
    }
    return {word: value for word, value in words.items() if value}


async def test_the_variables_of_libpq_lead_to_the_database(empty_dsn: str, libpq: dict[str, str]) -> None:
    libpq["database"] = libpq.pop("dbname")

    ran = await pqlite("migrate", env={f"PG{word.upper()}": value for word, value in libpq.items()})

    assert (ran.status, ran.err) == (0, "")
    assert await catalog(empty_dsn, "pqlite")


@pytest.mark.skipif(not hasattr(asyncpg.connect_utils, "PG_SERVICEFILE"), reason="asyncpg 0.31 reads services")
async def test_a_service_of_libpq_leads_to_the_database(empty_dsn: str, libpq: dict[str, str], tmp_path: Path) -> None:
    services = tmp_path / "services.conf"
    services.write_text("\n".join(["[shop & co]", *(f"{word}={value}" for word, value in libpq.items())]))

    ran = await pqlite("migrate", env={"PGSERVICE": "shop & co", "PGSERVICEFILE": str(services)})

    assert (ran.status, ran.err) == (0, "")
    assert await catalog(empty_dsn, "pqlite")


# Plans, parts and roles


async def test_a_plan_says_every_step_and_changes_nothing(empty_dsn: str) -> None:
    ran = await pqlite("migrate", "--dsn", empty_dsn, "--plan")

    assert (ran.status, ran.err) == (0, "")
    ways = {False: "in a transaction of its own", True: "as a single statement, outside a transaction"}
    steps = "".join(f"Would apply {migration}, {ways[migration.alone]}.\n" for migration in schema.migrations())
    assert ran.out == (
        f"The schema 'pqlite' does not exist; this pqlite needs version {schema.latest()}.\n{steps}"
        "Would replace the functions, in one transaction.\nNothing was changed.\n"
    )
    assert await catalog(empty_dsn, "pqlite") == []


async def test_a_plan_without_a_step_says_so(dsn: str, conn: asyncpg.Connection) -> None:
    ran = await pqlite("migrate", "--dsn", dsn, "--plan")
    assert ran.out.endswith("Nothing to do.\n")

    await conn.execute("drop function pqlite.next_death")
    ran = await pqlite("migrate", "--dsn", dsn, "--plan")
    assert ran.out.endswith("Would replace the functions, in one transaction.\nNothing was changed.\n")
    ran = await pqlite("migrate", "--dsn", dsn)
    assert (ran.status, ran.out) == (0, "Replaced the functions.\n")


async def test_migrate_stops_where_it_was_told_and_goes_on_later(empty_dsn: str) -> None:
    first = await pqlite("migrate", "--dsn", empty_dsn, "--to", "1")
    same = await pqlite("migrate", "--dsn", empty_dsn, "--to", "1")
    rest = await pqlite("migrate", "--dsn", empty_dsn)
    nowhere = await pqlite("migrate", "--dsn", empty_dsn, "--to", "9999")

    assert (first.out, same.out) == ("Applied 0001_initial.\n", "Nothing to do: the schema is at version 1.\n")
    assert rest.out == "".join(f"Applied {migration}.\n" for migration in schema.migrations()[1:])
    assert (nowhere.status, nowhere.out) == (1, "")
    assert nowhere.err.startswith("There is no version 9999; this pqlite knows 1 to ")


async def test_the_printed_sql_from_a_version_on_completes_a_schema_at_that_version_and_no_other(
    dsn: str, empty_dsn: str
) -> None:
    await pqlite("migrate", "--dsn", empty_dsn, "--to", "1", "--schema", "jobs_of_2")
    await pqlite("migrate", "--dsn", dsn, "--schema", "jobs_of_2")
    printed = await pqlite("migrate", "--sql", "--from", "1", "--schema", "jobs_of_2")

    await run_script(empty_dsn, printed.out)

    assert await catalog(empty_dsn, "jobs_of_2") == await catalog(dsn, "jobs_of_2")
    assert (await pqlite("migrate", "--dsn", empty_dsn, "--schema", "jobs_of_2")).out.startswith("Nothing to do")
    with pytest.raises((subprocess.CalledProcessError, asyncpg.RaiseError)):
        await run_script(empty_dsn, printed.out)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("--from", "1", "--dsn", "postgresql://x/"), 2, "--from goes with --sql"),
        (("--roles", "--to", "1"), 2, "--to does not go with --roles"),
        (("--sql", "--from", "77"), 1, "There is no way from version 77 to "),
        (("--sql", "--to", "77"), 1, "There is no way from version 0 to 77"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    arguments: tuple[str, ...], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["migrate", *arguments]) == status

    assert says in capsys.readouterr().err


def test_the_roles_are_printed_for_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["migrate", "--roles", "--schema", "other"])
    said = capsys.readouterr()

    assert (status, said.err) == (0, "")
    assert 'grant usage on schema "other" to "other_worker", "other_producer", "other_viewer";' in said.out
    assert "pqlite_worker" not in said.out


async def test_a_version_behind_the_schemas_is_refused(dsn: str) -> None:
    ran = await pqlite("migrate", "--dsn", dsn, "--to", "1")

    assert ran.status == 1
    assert "migrations only go forward" in ran.err
    assert ran.out == ""
