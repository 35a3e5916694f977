"""The command as a process: run to its end, or watched line by line."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import STDOUT
from typing import NamedTuple

import anyio
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

COMMAND = (sys.executable, "-m", "pqlite")
PATIENCE = 30.0


class Ran(NamedTuple):
    status: int
    out: str
    err: str


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without anything the command would read, plus `variables`."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "PQLITE_", "WORKER_")) and name != "DATABASE_URL"
    }
    return {**ours, **variables}


async def pqlite(*arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Ran:
    with anyio.fail_after(PATIENCE):
        done = await anyio.run_process(
            [*COMMAND, *arguments], cwd=cwd, env=environment(**(env or {})), check=False, stdin=None
        )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


class Watched:
    """A running command; what it prints, on both streams, is in `output`."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self._process = process
        self._lines = TextReceiveStream(process.stdout)
        self.output = ""

    async def prints(self, text: str) -> None:
        """Return once `text` has been printed."""
        try:
            with anyio.fail_after(PATIENCE):
                while text not in self.output:
                    self.output += await self._lines.receive()
        except (TimeoutError, anyio.EndOfStream):
            raise AssertionError(f"{text!r} was never printed, only:\n{self.output}") from None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def exits(self) -> int:
        """Return the exit status once the process has ended."""
        try:
            with anyio.fail_after(PATIENCE):
                async for text in self._lines:
                    self.output += text
                return await self._process.wait()
        except TimeoutError:
            raise AssertionError(f"the process did not end; it printed:\n{self.output}") from None


@asynccontextmanager
async def watched(*arguments: str, cwd: Path, env: Mapping[str, str]) -> AsyncIterator[Watched]:
    async with await anyio.open_process(
        [*COMMAND, *arguments], cwd=cwd, env=environment(**env), stdin=None, stderr=STDOUT
    ) as process:
        try:
            yield Watched(process)
        finally:
            if process.returncode is None:
                process.kill()
