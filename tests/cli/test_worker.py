import os
import pty
import select
import signal
import socket
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import anyio
import asyncpg
import pytest

from pqlite import JobStatus, PgJobStore
from tests.cli.process import COMMAND, PATIENCE, environment, pqlite, watched

APP = """
import asyncio, os, time
from types import SimpleNamespace
from pqlite import PgJobStore, Worker

store = PgJobStore(dsn=os.environ["APP_DSN"])

async def quick(ctx):
    print("quick is done", flush=True)

async def patient(ctx):
    print("patient has started", flush=True)
    await asyncio.sleep(600)

async def obliging(ctx):
    print("obliging has started", flush=True)
    await worker.wait_stopping()

def deaf(ctx):
    print("deaf has started", flush=True)
    time.sleep(600)

handlers = {"quick": quick, "patient": patient, "obliging": obliging, "deaf": deaf}
worker = Worker(store=store, handlers=handlers, shutdown_grace=20)
inner = SimpleNamespace(worker=worker)

def make_worker():
    return worker
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A directory with an app in main.py."""
    (tmp_path / "main.py").write_text(APP)
    return tmp_path


async def test_once_it_runs_what_is_due_says_how_much_that_was_and_ends(store: PgJobStore, dsn: str, app: Path) -> None:
    jobs = [await store.enqueue("quick") for _ in range(3)]
    later = await store.enqueue("quick", run_after=timedelta(hours=1))

    ran = await pqlite("worker", "main:worker", "--once", cwd=app, env={"APP_DSN": dsn, "WORKER_ENABLED": "false"})

    assert ran.status == 0, ran.err
    assert ran.out.splitlines() == ["quick is done"] * 3 + ["Attempts: 3"]
    assert {(await store.get(job_id)).status for job_id in jobs} == {JobStatus.DONE}
    assert (await store.get(later)).status is JobStatus.READY


async def test_once_without_a_database_is_an_error(app: Path) -> None:
    ran = await pqlite("worker", "main:worker", "--once", cwd=app, env={"APP_DSN": "postgresql://127.0.0.1:1/none"})

    assert ran.status == 1
    assert "cannot be reached" in ran.err


@pytest.mark.parametrize("target", ["main:worker", "main:inner.worker", "main:make_worker"])
async def test_it_runs_jobs_whatever_worker_enabled_says_and_a_stop_is_a_success(
    store: PgJobStore, dsn: str, app: Path, target: str
) -> None:
    job = await store.enqueue("quick")

    async with watched("worker", target, cwd=app, env={"APP_DSN": dsn, "WORKER_ENABLED": "false"}) as worker:
        await worker.prints("quick is done")
        worker.send(signal.SIGTERM)
        status = await worker.exits()

    assert status == 0, worker.output
    assert (await store.get(job)).status is JobStatus.DONE
    assert "INFO pqlite: Worker" in worker.output
    assert "Traceback" not in worker.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_running_job_may_end_after_the_signal(
    store: PgJobStore, dsn: str, app: Path, number: signal.Signals
) -> None:
    job = await store.enqueue("obliging")

    async with watched("worker", "main:worker", cwd=app, env={"APP_DSN": dsn}) as worker:
        await worker.prints("obliging has started")
        worker.send(number)
        status = await worker.exits()

    assert status == 0, worker.output
    assert (await store.get(job)).status is JobStatus.DONE


async def test_a_job_that_outlasts_the_grace_is_given_back_and_its_attempt_is_not_counted(
    store: PgJobStore, conn: asyncpg.Connection, dsn: str, app: Path
) -> None:
    job = await store.enqueue("patient")

    env = {"APP_DSN": dsn, "WORKER_SHUTDOWN_GRACE": "0"}
    async with watched("worker", "main:worker", cwd=app, env=env) as worker:
        await worker.prints("patient has started")
        worker.send(signal.SIGTERM)
        status = await worker.exits()

    assert status == 0, worker.output
    await assert_given_back(store, conn, job)


@pytest.mark.parametrize("signals", [2, 4])
async def test_a_second_signal_ends_the_grace_and_further_ones_do_not_lose_the_job(
    store: PgJobStore, conn: asyncpg.Connection, dsn: str, app: Path, signals: int
) -> None:
    job = await store.enqueue("patient")

    async with watched("worker", "main:worker", cwd=app, env={"APP_DSN": dsn}) as worker:
        await worker.prints("patient has started")
        worker.send(signal.SIGTERM)
        await worker.prints("SIGTERM: the worker stops gracefully")
        asked = time.monotonic()
        for _ in range(1, signals):
            worker.send(signal.SIGINT)
            await worker.prints("SIGINT: the worker stops at once")
        status = await worker.exits()

    assert status == 1, worker.output
    assert time.monotonic() - asked < 5.0  # the grace is 20 seconds
    await assert_given_back(store, conn, job)


async def test_a_handler_that_nobody_can_stop_does_not_keep_the_process(store: PgJobStore, dsn: str, app: Path) -> None:
    await store.enqueue("deaf")

    env = {"APP_DSN": dsn, "WORKER_SHUTDOWN_GRACE": "0", "WORKER_SHUTDOWN_TIMEOUT": "1"}
    async with watched("worker", "main:worker", cwd=app, env=env) as worker:
        await worker.prints("deaf has started")
        worker.send(signal.SIGTERM)
        status = await worker.exits()

    assert status == 1
    assert worker.output.splitlines()[-1] == "A handler does not stop; the process ends without it."


async def test_without_the_schema_it_names_the_command_that_makes_it(empty_dsn: str, app: Path) -> None:
    ran = await pqlite("worker", "main:worker", cwd=app, env={"APP_DSN": empty_dsn})

    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("The database has no schema 'pqlite' of pqlite; run 'pqlite migrate'")
    assert len(ran.err.splitlines()) == 1


async def test_it_waits_for_a_database_that_is_away_and_still_obeys(app: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        dsn = f"postgresql://app:s3cret@127.0.0.1:{listener.getsockname()[1]}/app"

        async with watched("worker", "main:worker", cwd=app, env={"APP_DSN": dsn}) as worker:
            await worker.prints("The database cannot be reached")
            worker.send(signal.SIGTERM)
            status = await worker.exits()

    assert status == 0, worker.output
    assert "s3cret" not in worker.output


async def test_what_a_handler_logs_names_its_job(store: PgJobStore, dsn: str, app: Path) -> None:
    with (app / "main.py").open("a") as file:
        file.write("""
import logging

async def talk(ctx):
    await asyncio.to_thread(logging.getLogger("shop").warning, "the lamp is %s", "red")
    ctx.log.info("it is on")

handlers["talk"] = talk
worker = Worker(store=store, handlers=handlers)
""")
    job_id = await store.enqueue("talk")

    ran = await pqlite("worker", "main:worker", "--once", cwd=app, env={"APP_DSN": dsn})

    assert f"WARNING shop: [job {job_id} talk, attempt 1] the lamp is red" in ran.err
    assert f"INFO pqlite.jobs: [job {job_id} talk, attempt 1] it is on" in ran.err
    assert "INFO pqlite: Worker " in ran.err


async def test_an_app_that_sets_logging_up_keeps_its_own_format(dsn: str, app: Path) -> None:
    with (app / "main.py").open("a") as file:
        file.write('import logging; logging.basicConfig(level=logging.INFO, format="app says: %(message)s")\n')

    async with watched("worker", "main:worker", cwd=app, env={"APP_DSN": dsn}) as worker:
        await worker.prints("is registered.")
        worker.send(signal.SIGTERM)
        await worker.exits()

    lines = worker.output.splitlines()
    assert lines
    assert all(line.startswith("app says: ") for line in lines)


async def test_a_terminal_gets_colours_if_rich_is_there(dsn: str, app: Path) -> None:
    pytest.importorskip("rich")
    terminal, end = pty.openpty()
    env = environment(APP_DSN=dsn, TERM="xterm-256color", COLUMNS="120")
    process = subprocess.Popen([*COMMAND, "worker", "main:worker"], cwd=app, env=env, stderr=end)
    try:
        output = await anyio.to_thread.run_sync(_read_until, terminal, b"is registered")
        process.terminate()
        status = await anyio.to_thread.run_sync(lambda: process.wait(PATIENCE))
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(end)

    assert status == 0
    assert b"\x1b[" in output


def _read_until(descriptor: int, text: bytes) -> bytes:
    output = b""
    while text not in output and select.select([descriptor], [], [], PATIENCE)[0]:
        output += os.read(descriptor, 4096)
    return output


async def assert_given_back(store: PgJobStore, conn: asyncpg.Connection, job_id: int) -> None:
    job = await store.get(job_id)
    assert (job.status, job.attempts, job.locked_by, job.crashes) == (JobStatus.READY, 0, None, 0)
    assert await conn.fetchval("select count(*) from pqlite.workers") == 0


async def test_run_without_the_command_obeys_sigterm_too(store: PgJobStore, dsn: str, app: Path) -> None:
    (app / "script.py").write_text("import asyncio\nfrom main import worker\nasyncio.run(worker.run())\n")
    await store.enqueue("obliging")
    process = await anyio.open_process([COMMAND[0], "script.py"], cwd=app, env=environment(APP_DSN=dsn))
    async with process:
        with anyio.fail_after(PATIENCE):
            assert process.stdout is not None
            await process.stdout.receive()  # obliging has started
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
