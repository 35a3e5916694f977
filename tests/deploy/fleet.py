"""The processes of a deployment, as real ones: started, taken out of rotation, told to stop."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import httpx

from tests.faults.ledger import Ledger, Reader
from tests.support import until

ROOT = Path(__file__).parents[2]
RELEASES = {1: "tests.deploy.release_1", 2: "tests.deploy.release_2"}
PATIENCE = 30.0


class Instance:
    """One process: with the web server (a port) or the worker alone. `stopped_at` is when it was told to stop."""

    def __init__(self, fleet: "Fleet", release: int, label: str, *, web: bool) -> None:
        self.release = release
        self.label = label
        self.in_flight = 0
        self.stopped_at: float | None = None
        self.ended_at: float | None = None
        self._fleet = fleet
        self.log = fleet.directory / f"{label}.log"
        arguments = ["-m", "pqlite", "worker", "tests.deploy.app:worker"]
        self.url: str | None = None
        if web:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            arguments = ["-m", "uvicorn", "tests.deploy.app:app", "--port", str(port), "--no-access-log"]
            self.url = f"http://127.0.0.1:{port}"
        facts = {"RELEASE": RELEASES[release], "LABEL": label, "DSN": fleet.dsn, "LEDGER": str(fleet.path)}
        with self.log.open("wb") as log:
            self._popen = subprocess.Popen(
                [sys.executable, *arguments],
                env=os.environ | facts | {"WORKER_SHUTDOWN_GRACE": str(fleet.grace)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        self.pid = self._popen.pid

    @property
    def returncode(self) -> int | None:
        return self._popen.poll()

    @property
    def stopped_cleanly(self) -> bool:
        """Return whether it ended as it should: uvicorn dies of the signal once it has shut down."""
        return self.returncode == (0 if self.url is None else -signal.SIGTERM)

    @property
    def registered_at(self) -> float:
        return self._fleet.reader.lines("registered", pid=self.pid)[0].at

    def exporting(self, since: float) -> bool:
        """Return whether a job that takes long runs here, and began after that time (time.time)."""
        runs = self._fleet.running(self.pid)
        return any(runs[job] > since for job in runs.keys() & self._fleet.exports)

    async def ready(self, client: httpx.AsyncClient) -> None:
        """Return when it claims, and answers."""

        async def up() -> bool:
            assert self.returncode is None, self.log.read_text()
            if not self._fleet.reader.lines("registered", pid=self.pid):
                return False
            try:
                return self.url is None or (await client.get(f"{self.url}/health")).json() == {"trouble": None}
            except httpx.TransportError:
                return False

        await until(up, f"{self.label} to serve", PATIENCE)

    def terminate(self) -> None:
        self.stopped_at = time.time()
        self._popen.send_signal(signal.SIGTERM)

    async def ended(self) -> None:
        await until(lambda: self.returncode is not None, f"{self.label} to end", PATIENCE)
        self.ended_at = time.time()

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()


class Fleet:
    """Every process there is, and those that get requests. `exports` are the ids of the jobs that take long."""

    def __init__(self, dsn: str, directory: Path, *, grace: float) -> None:
        self.dsn = dsn
        self.directory = directory
        self.grace = grace
        self.path = directory / "ledger"
        self.reader = Reader(self.path)
        self.ledger = Ledger(self.path, "test")
        self.client = httpx.AsyncClient(timeout=30)
        self.all: list[Instance] = []
        self.rotation: list[Instance] = []
        self.exports: set[int] = set()
        self._runs: defaultdict[int, dict[int, float]] = defaultdict(dict)
        self._read = 0

    def running(self, pid: int) -> dict[int, float]:
        """Return the jobs that run in a process, and since when (time.time)."""
        lines = self.reader.lines()
        for line in lines[self._read :]:
            if line.what == "start" and line.job is not None:
                self._runs[line.pid][line.job] = line.at
            elif line.what == "end" and line.job is not None:
                del self._runs[line.pid][line.job]
        self._read = len(lines)
        return self._runs[pid]

    @property
    def alive(self) -> list[Instance]:
        """Return those that were not told to stop."""
        return [each for each in self.all if each.stopped_at is None]

    async def start(self, release: int, *, web: bool) -> Instance:
        """Start a process; return when it claims, and is in rotation if it serves requests."""
        kind = "web" if web else "worker"
        instance = Instance(self, release, f"{kind}-{len(self.all)}-release-{release}", web=web)
        self.all.append(instance)
        await instance.ready(self.client)
        if web:
            self.rotation.append(instance)
        return instance

    async def stop(self, instance: Instance) -> None:
        """Take it out of rotation, as a load balancer does, and then tell it to stop; return when it has ended."""
        if instance in self.rotation:
            self.rotation.remove(instance)
            await until(lambda: not instance.in_flight, f"the requests to {instance.label}", PATIENCE)
        instance.terminate()
        await instance.ended()

    async def close(self) -> None:
        """End what was left running, without mercy."""
        for instance in self.all:
            if instance.returncode is None:
                instance.kill()
        await self.client.aclose()
        self.reader.close()
        self.ledger.close()
