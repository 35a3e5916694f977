"""Runs of the command, each on a database of its own."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest

from pqlite.bench.contenders import FLOOR, PQLITE
from pqlite.bench.options import Options
from pqlite.bench.place import schemas
from pqlite.bench.run import Run
from pqlite.bench.server import Server as BenchServer
from tests.cli.process import COMMAND, Ran, environment
from tests.conftest import Server, dsn_of

ANSWER_SECONDS = 180.0
# What one process does, so that the processor's cores are used; the sizes are the smallest that there are.
SHARES = (
    ("enqueue", "drain", "latency"),
    ("sustained", "pinned"),
    ("lanes", "backlog", "idle"),
    ("features",),
    ("soak",),
)
SIZES = {
    "enqueue": ("--quick", "--jobs", "100", "--seconds", "1"),
    "sustained": ("--quick", "--jobs", "300", "--seconds", "1"),
    "lanes": ("--quick", "--jobs", "300", "--seconds", "1"),
    "features": ("--quick", "--jobs", "100"),
    "soak": ("--hours", "0.0014"),
}
SCHEMAS = "select nspname from pg_namespace where nspname like 'pqlite%' order by 1"


@dataclass
class Measured:
    """One run of the command: what it printed, and the files it wrote."""

    ran: Ran
    record: dict[str, Any]
    json: str
    svg: str | None
    schemas: list[str]


async def bench(*arguments: str, **variables: str) -> Ran:
    with anyio.fail_after(ANSWER_SECONDS):
        done = await anyio.run_process(
            [*COMMAND, "bench", *arguments], env=environment(**variables), check=False, stdin=None
        )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


async def fetch(dsn: str, query: str) -> list[Any]:
    """Return the first column of a query's rows."""
    connection = await asyncpg.connect(dsn)
    try:
        return [row[0] for row in await connection.fetch(query)]
    finally:
        await connection.close()


def with_password(dsn: str) -> str:
    """Return the address with a password in it, which a server that trusts us does not look at."""
    parts = urlsplit(dsn)
    if parts.password is not None:
        return dsn
    return parts._replace(netloc=parts.netloc.replace("@", ":s3cret@", 1)).geturl()


@pytest.fixture(scope="session")
async def measured(anyio_backend: str, server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Measured]:
    """Every scenario, measured once."""
    found: dict[str, Measured] = {}

    async def measure(share: tuple[str, ...], directory: Path) -> None:
        async with _database(server, f"pqlite_bench_{share[0]}") as dsn:
            files = ("--json", str(directory / "bench.json"), "--svg", str(directory / "bench.svg"))
            ran = await bench(*share, "--dsn", with_password(dsn), *SIZES[share[0]], *files)
            assert ran.status == 0, ran.err
            text = (directory / "bench.json").read_text()
            svg = (directory / "bench.svg").read_text() if (directory / "bench.svg").exists() else None
            run = Measured(ran, json.loads(text), text, svg, await fetch(dsn, SCHEMAS))
            found.update(dict.fromkeys(share, run))

    async with anyio.create_task_group() as group:
        for share in SHARES:
            group.start_soon(measure, share, tmp_path_factory.mktemp(share[0]))
    return found


@asynccontextmanager
async def _database(server: Server, name: str) -> AsyncIterator[str]:
    connection = await asyncpg.connect(server.dsn)
    try:
        await connection.execute(f'create database "{name}"')
        yield dsn_of(server, name)
        await connection.execute(f'drop database "{name}" with (force)')
    finally:
        await connection.close()


@pytest.fixture
async def run(empty_dsn: str, tmp_path: Path) -> AsyncIterator[Run]:
    """What scenarios are given, in this process."""
    connection = await asyncpg.connect(empty_dsn)
    try:
        server = await BenchServer.reached(connection)
        found = Run(empty_dsn, connection, server, Options(jobs=300, seconds=1), tmp_path)
        async with schemas(connection, empty_dsn, [found.contenders[PQLITE], found.contenders[FLOOR]]):
            yield found
    finally:
        await connection.close()
