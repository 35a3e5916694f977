"""Where a fault happens: one database, the worker processes on it, the ledger they write, and the final audit."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import asyncpg

from pqlite import PgJobStore
from tests.faults.auditor import TABLES, Audit, Violation, examine
from tests.faults.ledger import Ledger, Line, Reader
from tests.support import until

ROOT = Path(__file__).parents[2]
STEADY = "select from pqlite.workers where label = $1 and steady_since < clock_timestamp() - interval '8.5 s'"
"""Finds a worker that may judge others."""


class Process:
    """A worker process; signals go to it by its id alone."""

    def __init__(self, scene: "Scene", label: str, options: Iterable[str], dsn: str) -> None:
        self.scene = scene
        self.label = label
        self.log = scene.directory / f"{label}-{len(scene.processes)}.log"
        with self.log.open("wb") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.process", dsn, str(scene.path), label, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        self.pid = self._popen.pid

    @property
    def returncode(self) -> int | None:
        return self._popen.poll()

    def signal(self, number: signal.Signals) -> float:
        """Send a signal; return when (time.time)."""
        if number is signal.SIGKILL:
            self.scene.deaths[self.pid] = time.time()
        if number is signal.SIGSTOP:
            self.scene.frozen.add(self.pid)
        at = time.time()
        self._popen.send_signal(number)
        return at

    def kill(self) -> float:
        at = self.signal(signal.SIGKILL)
        self._popen.wait()
        return at

    async def ended(self, seconds: float = 30.0) -> int:
        await until(lambda: self.returncode is not None, f"{self.label} to end", seconds)
        self.scene.deaths.setdefault(self.pid, time.time())
        assert self.returncode is not None
        return self.returncode

    async def stop(self) -> None:
        """Ask it to stop, and require that it does so cleanly."""
        self.signal(signal.SIGTERM)
        if await self.ended() != 0:
            raise Violation(f"{self.label} ended with {self.returncode}:\n{self.log.read_text()[-2000:]}")

    def lines(self, what: str, **facts: Any) -> list[Line]:
        return self.scene.reader.lines(what, pid=self.pid, **facts)


class Scene:
    """Everything about one fault. `dsn` must be of a migrated database."""

    def __init__(self, dsn: str, directory: Path) -> None:
        self.dsn = dsn
        self.directory = directory
        self.path = directory / "ledger"
        self.reader = Reader(self.path)
        self.ledger = Ledger(self.path, "test")
        self.store = PgJobStore(dsn=dsn)
        self.processes: list[Process] = []
        self.deaths: dict[int, float] = {}
        self.frozen: set[int] = set()
        self.ids: list[int] = []

    async def __aenter__(self) -> Self:
        self._tasks = asyncio.all_tasks()
        self._threads = set(threading.enumerate())
        await self.store.start()
        await self.execute(TABLES)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.kill()
        await self.store.close()
        self.reader.close()
        self.ledger.close()

    # Act

    async def spawn(self, label: str, *, ready: bool = True, dsn: str = "", **options: float) -> Process:
        """Start a worker process; return when it may claim."""
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        process = Process(self, label, arguments, dsn or self.dsn)
        self.processes.append(process)
        if ready:
            await until(
                lambda: process.lines("registered") or process.returncode is not None, f"{label} to register", 60.0
            )
            assert process.returncode is None, process.log.read_text()
        return process

    async def enqueue(self, job_type: str, seconds: float | list[float] = 0.0, **options: Any) -> int:
        job_id = await self.store.enqueue(job_type, {"seconds": seconds}, **options)
        self.ids.append(job_id)
        return job_id

    async def enqueue_many(
        self, job_type: str, count: int, seconds: float | list[float] = 0.0, **options: Any
    ) -> list[int]:
        verdicts = await self.store.enqueue_many(
            [{"job_type": job_type, "payload": {"seconds": seconds}, **options} for _ in range(count)]
        )
        self.ids += [verdict.id for verdict in verdicts]
        return [verdict.id for verdict in verdicts]

    # Look

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        """Run a query on a connection that did not exist before."""
        conn = await asyncpg.connect(self.dsn, server_settings={"application_name": "auditor"})
        try:
            return await conn.fetch(sql, *args)
        finally:
            await conn.close()

    async def execute(self, sql: str) -> None:
        conn = await asyncpg.connect(self.dsn, server_settings={"application_name": "auditor"})
        try:
            await conn.execute(sql)
        finally:
            await conn.close()

    async def line(self, what: str, patience: float = 15.0, *, count: int = 1, **facts: Any) -> Line:
        """Return the `count`-th such line of the ledger, once it is there."""

        def look() -> Line | None:
            found = self.reader.lines(what, **facts)
            return found[count - 1] if len(found) >= count else None

        try:
            return await until(look, f"{what} {facts}", patience)
        except AssertionError as error:
            raise AssertionError(f"{error}; the ledger ends: {self.reader.lines()[-15:]}") from None

    async def drained(self, patience: float = 60.0) -> None:
        """Return when every job is DONE, FAILED or CANCELLED."""

        async def look() -> bool:
            with suppress(OSError, asyncpg.PostgresError):
                sql = "select from pqlite.jobs where status in ('READY', 'BLOCKED', 'RUNNING') limit 1"
                return not await self.fetch(sql)
            return False

        try:
            await until(look, "every job to end", patience)
        except AssertionError as error:
            rows = await self.fetch(
                "select id, job_type, status, attempts, claims, crashes, locked_by, run_after - now() as due "
                "from pqlite.jobs where status in ('READY', 'BLOCKED', 'RUNNING') limit 10"
            )
            workers = await self.fetch(
                "select id, clock_timestamp() - renewed_at as silent, dead_at from pqlite.workers"
            )
            raise AssertionError(f"{error}: {rows}, workers: {workers}") from None

    async def row(self, job_id: int) -> asyncpg.Record:
        (row,) = await self.fetch("select * from pqlite.jobs where id = $1", job_id)
        return row

    # Judge

    async def audit(self, *, overlaps: bool = False) -> Audit:
        """Stop every process, close the store, and hold everything that is left against the promises.

        `overlaps` permits two runs of one job at a time: a crashed server may forget the latest claims.
        """
        for process in self.processes:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)
        await asyncio.gather(*(process.stop() for process in self.processes if process.returncode is None))
        await self.store.close()
        conn = await asyncpg.connect(self.dsn, server_settings={"application_name": "auditor"})
        try:
            audit = await examine(conn, self.ids, self.reader.lines(), self.deaths, self.frozen, overlaps=overlaps)
        finally:
            await conn.close()
        await asyncio.sleep(0)
        audit.require("no task is left", {repr(t) for t in asyncio.all_tasks() - self._tasks if _is_ours(t.get_name())})
        left = set(threading.enumerate()) - self._threads
        audit.require("no thread is left", {thread.name for thread in left if _is_ours(thread.name)})
        audit.check()
        return audit


def side_by_side(scenario: Callable[[Scene], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Make a test of a scenario that runs beside the others of its module; see `together` in conftest.py."""

    async def test(together: dict[str, "asyncio.Task[None]"]) -> None:
        await together[scenario.__name__]

    test.__name__ = test.__qualname__ = scenario.__name__
    test.__doc__ = scenario.__doc__
    test.scenario = scenario  # type: ignore[attr-defined]
    return test


def _is_ours(name: str) -> bool:
    """Return whether a task or thread is not one that asyncio or anyio keeps for later, or another scenario's."""
    return not name.startswith(("asyncio_", "AnyIO", "scenario", "Task-"))
