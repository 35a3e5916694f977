"""The fixtures, in projects of others: every kind of test that people write."""

import os
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import asyncpg
import pytest

from pqlite import ConfigurationError
from pqlite.testing.databases import Databases
from tests.testing.projects import passed, run_pytest, write_project

ANYIO = """
import asyncio
import httpx
import pytest
from fastapi import FastAPI
from pqlite import JobStatus, Worker
from pqlite.events import JobSettled
from pqlite.testing import EventLog, assert_enqueued, drain

pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def started(pqlite_store):
    async with pqlite_store as store:
        yield store

async def nothing(ctx):
    pass

async def test_in_an_async_fixture(started):
    await started.enqueue("t")
    assert [job.status for job in await drain(started, {"t": nothing})] == [JobStatus.DONE]

@pytest.mark.parametrize("again", range(2))
async def test_a_database_is_fresh(started, again):
    assert await started.enqueue("t", dedupe_key="k") == 1

async def test_memory(pqlite_memory_store):
    await pqlite_memory_store.enqueue("t")
    await assert_enqueued(pqlite_memory_store, "t", count=1)

async def test_an_app_behind_asgi_transport(pqlite_store):
    store, log = pqlite_store, EventLog()
    worker = Worker(store=store, handlers={"t": nothing}, observers=[log])
    app = FastAPI(lifespan=worker.lifespan)

    @app.post("/")
    async def start():
        return await store.enqueue("t")

    transport = httpx.ASGITransport(app=app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        job_id = (await client.post("/")).json()
        await log.wait_for(JobSettled)
        assert (await store.get(job_id)).status is JobStatus.DONE
"""

ASYNCIO = """
import pytest
import pytest_asyncio
from pqlite import JobStatus, Worker
from pqlite.events import JobSettled
from pqlite.testing import EventLog, assert_enqueued, bound, drain, inline

pytestmark = pytest.mark.asyncio

@pytest_asyncio.fixture
async def started(pqlite_store):
    async with pqlite_store as store:
        yield store

async def nothing(ctx):
    pass

async def test_in_an_async_fixture(started):
    await started.enqueue("t")
    assert [job.status for job in await drain(started, {"t": nothing})] == [JobStatus.DONE]

async def test_with_a_worker(started):
    log = EventLog()
    async with Worker(store=started, handlers={"t": nothing}, observers=[log]):
        job_id = await started.enqueue("t")
        await log.wait_for(JobSettled)
    assert (await started.get(job_id)).status is JobStatus.DONE

async def test_inline(pqlite_memory_store):
    async with inline(pqlite_memory_store, {"t": nothing}):
        job_id = await pqlite_memory_store.enqueue("t")
    await assert_enqueued(pqlite_memory_store, "t", status=JobStatus.DONE)

async def test_rolled_back(pqlite_dsn):
    import asyncpg
    conn = await asyncpg.connect(pqlite_dsn)
    transaction = conn.transaction()
    await transaction.start()
    store = bound(conn)
    await store.enqueue("t")
    assert len(await drain(store, {"t": nothing})) == 1
    await transaction.rollback()
    assert await conn.fetchval("select count(*) from pqlite.jobs") == 0
    await conn.close()
"""

TEST_CLIENT = """
import asyncio
import time
from contextlib import asynccontextmanager
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from pqlite import JobStatus, Worker
from pqlite.testing import inline

def test_the_apps_lifespan_runs_its_worker(pqlite_store):
    store = pqlite_store

    async def handler(ctx):
        return "done"

    worker = Worker(store=store, handlers={"t": handler})
    app = FastAPI(lifespan=worker.lifespan)

    @app.post("/")
    async def start():
        return await store.enqueue("t")

    @app.get("/{job_id}")
    async def look(job_id: int):
        job = await store.get(job_id)
        return {"status": job.status, "result": job.result}

    with TestClient(app) as client:
        job_id = client.post("/").json()
        deadline = time.monotonic() + 15
        while client.get(f"/{job_id}").json()["status"] != "DONE":
            assert time.monotonic() < deadline
        assert client.get(f"/{job_id}").json()["result"] == "done"

def test_jobs_run_inline_behind_the_client(pqlite_store):
    mailbox = []

    async def mail(ctx):
        mailbox.append(ctx.job.payload["to"])

    @asynccontextmanager
    async def lifespan(app):
        async with pqlite_store:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/{to}")
    async def start(to: int):
        return await pqlite_store.enqueue("mail", {"to": to})

    with TestClient(app) as client:
        with client.portal.wrap_async_context_manager(inline(pqlite_store, {"mail": mail})):
            client.post("/7")
            assert mailbox == [7]

def test_a_store_in_memory_can_be_asked_from_a_synchronous_test(pqlite_memory_store):
    job_id = asyncio.run(pqlite_memory_store.enqueue("t"))
    assert asyncio.run(pqlite_memory_store.get(job_id)).status is JobStatus.READY
"""

TABLES = """
import asyncio
import pytest

@pytest.fixture(scope="session")
def pqlite_sql():
    return "create table mine (id int); insert into mine values (7);"

def test_the_tables_of_the_project_are_there(pqlite_store):
    async def look():
        async with pqlite_store as store, store.connection() as conn:
            return await conn.fetchval("select id from mine"), await conn.fetchval("select count(*) from pqlite.jobs")

    assert asyncio.run(look()) == (7, 0)

def test_the_server_is_that_of_the_database(pqlite_server, pqlite_dsn):
    assert pqlite_dsn.split("/")[2] == pqlite_server.split("/")[2]
"""

UNUSED = """
import sys

def test_nothing_was_imported():
    assert "pqlite.testing.pytest_plugin" in sys.modules
    assert not sys.modules.keys() & {"asyncpg", "pydantic", "pydantic_core", "starlette"}
    assert not {name for name in sys.modules if name.startswith("pqlite.")} - {
        "pqlite.lazy_imports", "pqlite.testing", "pqlite.testing.pytest_plugin"
    }
"""

SCHEMAS = """
import asyncio
import pytest
from pqlite import JobStatus, PgJobStore
from pqlite.testing import drain

@pytest.fixture
def pqlite_store(pqlite_server, pqlite_schema):
    return PgJobStore(dsn=pqlite_server, schema=pqlite_schema)

async def nothing(ctx):
    pass

@pytest.mark.parametrize("again", range(2))
def test_a_schema_is_fresh(pqlite_store, again):
    async def run():
        async with pqlite_store as store:
            assert await store.enqueue("t", dedupe_key="k") == 1
            assert [job.status for job in await drain(store, {"t": nothing})] == [JobStatus.DONE]

    asyncio.run(run())
"""


class Server(Protocol):
    @property
    def dsn(self) -> str: ...


async def test_the_fixtures_work_in_every_kind_of_test_and_leave_nothing_behind(server: Server, tmp_path: Path) -> None:
    files = {
        "test_client.py": TEST_CLIENT,
        "test_anyio.py": ANYIO,
        "test_asyncio.py": ASYNCIO,
        "test_tables.py": TABLES,
    }
    project = write_project(tmp_path, files)

    ran = run_pytest(project, "-o", "asyncio_default_fixture_loop_scope=function", PQLITE_TEST_DSN=server.dsn)

    assert passed(ran, 14)
    conn = await asyncpg.connect(server.dsn)
    left = await conn.fetch("select datname from pg_database where datname ~ '^pqlite_(test|template)_'")
    await conn.close()
    # Those of this session carry its own process id.
    assert not [name for (name,) in left if name.split("_")[2] != str(os.getpid())]


async def test_a_user_who_may_create_no_database_has_a_schema_for_each_test(
    conn: asyncpg.Connection, dsn: str, tmp_path: Path
) -> None:
    await conn.execute("create role modest login; grant create on database " + urlsplit(dsn).path[1:] + " to modest")
    parts = urlsplit(dsn)
    project = write_project(tmp_path, {"test_schemas.py": SCHEMAS})
    try:
        modest = parts._replace(netloc="modest@" + parts.netloc.rpartition("@")[2]).geturl()
        ran = run_pytest(project, PQLITE_TEST_DSN=modest)
        assert passed(ran, 2)
        assert await conn.fetch("select from pg_namespace where nspname ~ '^pqlite_test_'") == []
    finally:
        await conn.execute("drop owned by modest; drop role modest")


async def test_sessions_whose_processes_have_the_same_id_and_leftovers_of_a_killed_one_do_no_harm(
    server: Server,
) -> None:
    first, second = Databases(server.dsn), Databases(server.dsn)
    for databases in (first, second):
        await databases.open()
    try:
        names = [await databases.create("") for databases in (first, second)]
        assert len(set(names)) == 2
        for databases, name in zip((first, second), names, strict=True):
            await databases.drop(name)
    finally:
        for databases in (first, second):
            await databases.close()


@pytest.mark.parametrize("dsn", ["postgresql://postgres@127.0.0.1:1/postgres", "host=127.0.0.1", "mysql://x"])
async def test_a_server_that_cannot_be_used_is_told_by_the_variable_that_names_it(dsn: str) -> None:
    with pytest.raises(ConfigurationError, match="The server of PQLITE_TEST_DSN cannot be used"):
        await Databases(dsn).open()


def test_the_address_of_a_database_is_one_that_every_library_reads_also_behind_a_socket() -> None:
    databases = Databases()
    databases.server_dsn = "postgresql:///postgres?host=/run/postgresql"
    assert databases.dsn_of("mine") == "postgresql:///mine?host=/run/postgresql"
    databases.server_dsn = "postgresql://me:secret@localhost:5433/postgres"
    assert databases.dsn_of("mine") == "postgresql://me:secret@localhost:5433/mine"


async def test_without_a_server_an_embedded_one_is_started_and_stopped(tmp_path: Path) -> None:
    project = write_project(tmp_path, {"test_project.py": TABLES})

    assert passed(run_pytest(project), 2)


def test_a_project_that_does_not_use_the_fixtures_pays_nothing(tmp_path: Path) -> None:
    project = write_project(tmp_path, {"test_project.py": UNUSED})

    plain = ["-p", "no:asyncio", "-p", "no:anyio", "-p", "no:hypothesispytest"]
    assert passed(run_pytest(project, *plain), 1)


def test_the_fixtures_say_what_they_are(tmp_path: Path) -> None:
    ran = run_pytest(tmp_path, "--fixtures")

    assert ran.returncode in (0, 5), ran.stdout + ran.stderr
    for sentence in (
        "Return a MemoryJobStore. It is started",
        "Return a PgJobStore on a database of the test's own. It is not started",
        "Return the DSN of a database of the test's own",
        "Return the name of a schema of the test's own",
        "Return SQL that is run in every test's database",
    ):
        assert sentence in ran.stdout
