"""Under a real uvicorn: what happens when it is told to stop."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx

from pqlite import JobStatus, PgJobStore
from tests.support import until

Served = tuple[asyncio.subprocess.Process, httpx.AsyncClient]


@asynccontextmanager
async def served(dsn: str, *arguments: str, **environment: str) -> AsyncIterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "tests.app.served:app", "--port", str(port), *arguments),
        env=os.environ | {"DSN": dsn} | environment,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:

            async def up() -> bool:
                try:
                    return (await client.get("/health")).status_code == 200
                except httpx.TransportError:
                    assert process.returncode is None
                    return False

            await until(up, "the server to answer")
            yield process, client
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def running(conn: asyncpg.Connection) -> bool:
    return bool(await conn.fetchval("select count(*) from pqlite.jobs where status = 'RUNNING'"))


async def test_sigterm_gives_a_running_job_back_uncharged(
    dsn: str, store: PgJobStore, conn: asyncpg.Connection
) -> None:
    async with served(dsn) as (process, client):
        job_id = (await client.post("/sleep/60")).json()["job_id"]
        await until(lambda: running(conn))
        process.terminate()
        await asyncio.wait_for(process.wait(), 10)

    job = await store.get(job_id)
    assert (job.status, job.attempts, job.crashes) == (JobStatus.READY, 0, 0)
    assert await conn.fetchval("select count(*) from pqlite.workers") == 0


async def test_claiming_stops_while_an_open_stream_still_keeps_the_server(
    dsn: str, store: PgJobStore, conn: asyncpg.Connection
) -> None:
    async with (
        served(dsn) as (process, client),
        client.stream("GET", "/stream", params={"polite": False}) as response,
    ):
        assert response.status_code == 200
        process.terminate()
        # The stream holds uvicorn; the worker has heard of the stop all the same, and is gone.
        await until(lambda: conn.fetchval("select count(*) = 0 from pqlite.workers"), "the worker to stop")
        job_id = await store.enqueue("sleep", {"seconds": 0})
        assert process.returncode is None
        assert (await store.get(job_id)).status is JobStatus.READY


async def test_a_stream_that_waits_for_the_worker_lets_the_server_go(dsn: str) -> None:
    async with (
        served(dsn) as (process, client),
        client.stream("GET", "/stream", params={"polite": True}) as response,
    ):
        lines = response.aiter_lines()
        assert await anext(lines) == "data: begun"
        process.terminate()
        assert [line async for line in lines if line] == ["data: ended"]
        await asyncio.wait_for(process.wait(), 10)


async def test_a_second_ctrl_c_still_gives_the_jobs_back(dsn: str, store: PgJobStore, conn: asyncpg.Connection) -> None:
    async with served(dsn) as (process, client), client.stream("GET", "/stream", params={"polite": False}):
        job_id = (await client.post("/sleep/60")).json()["job_id"]
        await until(lambda: running(conn))
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.2)  # a person's second thought
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), 10)

    job = await store.get(job_id)
    assert time.monotonic() - began < 6
    assert (job.status, job.attempts) == (JobStatus.READY, 0)


async def test_an_api_only_process_enqueues_and_runs_nothing(dsn: str, store: PgJobStore) -> None:
    async with served(dsn, WORKER_ENABLED="false") as (_, client):
        job_id = (await client.post("/sleep/0")).json()["job_id"]
        trouble = (await client.get("/health")).json()["trouble"]

    assert trouble is None
    assert (await store.get(job_id)).status is JobStatus.READY


async def test_reloading_under_development_stops_the_old_worker(dsn: str, conn: asyncpg.Connection) -> None:
    async with served(dsn, "--reload", "--reload-dir", os.path.dirname(__file__)) as (process, _):
        [first] = await conn.fetch("select id from pqlite.workers")
        os.utime(os.path.join(os.path.dirname(__file__), "served.py"))

        async def replaced() -> bool:
            rows = await conn.fetch("select id from pqlite.workers")
            return len(rows) == 1 and rows[0]["id"] != first["id"]

        await until(replaced, "the new worker")
        process.terminate()
        await asyncio.wait_for(process.wait(), 10)
        await until(lambda: conn.fetchval("select count(*) = 0 from pqlite.workers"), "the last worker to go")


async def test_a_malformed_variable_stops_the_start_with_a_sentence(dsn: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "tests.app.served:app", "--port", "0"),
        env=os.environ | {"DSN": dsn, "WORKER_CONCURRENCY": "many"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await asyncio.wait_for(process.communicate(), 15)

    assert process.returncode != 0
    assert b"WORKER_CONCURRENCY is 'many'; it must be a whole number of 1 or more" in stderr
