"""What the benchmarks do to a database, and what they leave behind: nothing, however they end."""

import os
import signal
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from pqlite.bench.place import MARK
from tests.bench.conftest import SCHEMAS, bench, fetch
from tests.cli.process import watched
from tests.support import until

SESSIONS = (
    "select application_name from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() "
    "and application_name like 'pqlite%'"
)
LONG = ("bench", "sustained", "--seconds", "60", "--dsn")


@pytest.fixture
async def conn(empty_dsn: str) -> asyncpg.Connection:
    connection = await asyncpg.connect(empty_dsn)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def test_a_schema_that_is_not_ours_is_refused_and_left_alone(empty_dsn: str, conn: asyncpg.Connection) -> None:
    await conn.execute("create schema pqlite_bench_floor; create table pqlite_bench_floor.treasure ()")

    ran = await bench("enqueue", "--dsn", empty_dsn)

    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("There is a schema 'pqlite_bench_floor' that 'pqlite bench' did not make.")
    assert await fetch(empty_dsn, SCHEMAS) == ["pqlite_bench_floor"]
    assert await conn.fetchval("select count(*) from pqlite_bench_floor.treasure") == 0


async def test_what_an_earlier_run_left_is_dropped(empty_dsn: str, conn: asyncpg.Connection) -> None:
    await conn.execute("create schema pqlite_bench; create table pqlite_bench.jobs ()")
    await conn.execute("comment on schema pqlite_bench is '{}'".format(MARK.replace("'", "''")))

    ran = await bench("enqueue", "--quick", "--jobs", "100", "--dsn", empty_dsn)

    assert ran.status == 0, ran.err
    assert await fetch(empty_dsn, SCHEMAS) == []


async def test_the_apps_own_schema_is_not_touched(dsn: str) -> None:
    before = await fetch(dsn, "select count(*) from pqlite.jobs union all select count(*) from pqlite.workers")

    ran = await bench("enqueue", "--quick", "--jobs", "100", "--dsn", dsn)

    assert ran.status == 0, ran.err
    assert await fetch(dsn, SCHEMAS) == ["pqlite"]
    assert before == await fetch(dsn, "select count(*) from pqlite.jobs union all select count(*) from pqlite.workers")


async def test_two_runs_in_one_database_do_not_meet(empty_dsn: str, conn: asyncpg.Connection) -> None:
    await conn.execute("select pg_advisory_lock(hashtextextended('pqlite bench', 0))")

    ran = await bench("enqueue", "--dsn", empty_dsn)

    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("Another 'pqlite bench' is running in this database")


async def test_a_role_that_may_not_checkpoint_is_told_so_and_measures_anyway(
    empty_dsn: str, conn: asyncpg.Connection
) -> None:
    role = f"bench_{os.getpid()}"
    await conn.execute(f"create role {role} login password 'p'")
    await conn.execute(f'grant create on database "{urlsplit(empty_dsn).path[1:]}" to {role}')
    parts = urlsplit(empty_dsn)
    host = parts.netloc.rpartition("@")[2]
    try:
        ran = await bench(
            *("enqueue", "--quick", "--jobs", "100"), "--dsn", parts._replace(netloc=f"{role}:p@{host}").geturl()
        )
    finally:
        await conn.execute(f"drop owned by {role}; drop role {role}")

    assert ran.status == 0, ran.err
    assert ran.err.count("may not CHECKPOINT") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_run_drops_its_schemas_and_ends_its_processes(
    number: signal.Signals, empty_dsn: str, tmp_path: Path
) -> None:
    async with watched(*LONG, empty_dsn, cwd=tmp_path, env={"PYTHONPATH": os.getcwd()}) as running:
        await until(lambda: _worker_is_there(empty_dsn), "a worker's connection")

        running.send(number)
        status = await running.exits()

    assert status == 130
    assert "Traceback" not in running.output
    assert await fetch(empty_dsn, SCHEMAS) == []
    await until(lambda: _nobody_is_there(empty_dsn), "the processes' connections to end")


async def test_processes_do_not_outlive_a_run_that_was_killed(empty_dsn: str, tmp_path: Path) -> None:
    async with watched(*LONG, empty_dsn, cwd=tmp_path, env={"PYTHONPATH": os.getcwd()}) as running:
        await until(lambda: _worker_is_there(empty_dsn), "a worker's connection")

        running.send(signal.SIGKILL)

        await until(lambda: _nobody_is_there(empty_dsn), "the processes' connections to end")


async def _worker_is_there(dsn: str) -> bool:
    return "pqlite claimer" in await fetch(dsn, SESSIONS)


async def _nobody_is_there(dsn: str) -> bool:
    return not await fetch(dsn, SESSIONS)
