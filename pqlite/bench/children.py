"""Starts and controls the child processes of a measurement, and ends them with it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import IO, Any

from pqlite.bench.errors import BenchError
from pqlite.uninterrupted import uninterrupted

ANSWER_SECONDS = 120.0
END_SECONDS = 5.0
_LINE_LIMIT = 1 << 26
_COMPLAINTS = 5

Answer = dict[str, Any]


class Child:
    """A process with a role: it gets commands and returns answers."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, complaints: IO[bytes]) -> None:
        self.name = name
        self._process = process
        self._complaints = complaints

    async def answer(self, timeout: float = ANSWER_SECONDS) -> Answer:
        """Return its next answer.

        Raises:
            BenchError: it failed, ended or is silent.
        """
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout):
                line = await self._process.stdout.readline()
                if not line:
                    await self._process.wait()
        except TimeoutError:
            raise BenchError(f"The process of {self.name} has not answered for {timeout:g} seconds.") from None
        if not line:
            raise BenchError(f"The process of {self.name} ended with status {self._process.returncode}{self._last()}.")
        said: Answer = json.loads(line)
        if "error" in said:
            raise BenchError(f"The process of {self.name} failed: {said['error']}")
        return said

    async def ask(self, command: str, timeout: float = ANSWER_SECONDS) -> Answer:
        """Send a command and return the answer."""
        self.tell(command)
        return await self.answer(timeout)

    def tell(self, command: str) -> None:
        """Send a command."""
        self._write(f"{command}\n")

    async def check(self) -> None:
        """Check that it runs.

        Raises:
            BenchError: it has ended unexpectedly.
        """
        while self._process.returncode is not None:
            await self.answer()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(ConnectionError):  # it has ended; its next answer says so
            self._process.stdin.write(line.encode())

    async def end(self) -> None:
        """End it: by itself, else by force."""
        assert self._process.stdin is not None
        with suppress(ConnectionError):
            self._process.stdin.close()
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        for line in self._heard()[-_COMPLAINTS:]:
            print(f"  [{self.name}] {line}", file=sys.stderr)
        self._complaints.close()

    def _heard(self) -> list[str]:
        self._complaints.seek(0)
        return self._complaints.read().decode(errors="replace").splitlines()

    def _last(self) -> str:
        heard = [line for line in self._heard() if line.strip()]
        return f": {heard[-1].strip()}" if heard else ""


@asynccontextmanager
async def child(role: str, name: str, **spec: Any) -> AsyncIterator[Child]:
    """Start a process that plays a role; end it with the block."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WORKER_")}
    with tempfile.TemporaryFile() as complaints:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pqlite.bench.child"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=complaints,
            env=environment,
            limit=_LINE_LIMIT,
            start_new_session=True,  # Ctrl-C is for us
        )
        started = Child(name, process, complaints)
        try:
            started._write(json.dumps({"role": role} | spec) + "\n")
            yield started
        finally:
            await uninterrupted(started.end())
