"""One run of the benchmarks: the server, the contenders on it, and what scenarios need to measure them."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from pqlite.bench.children import Child, child
from pqlite.bench.contenders import contender
from pqlite.bench.contenders.base import Contender, Load
from pqlite.bench.errors import BenchError
from pqlite.bench.options import Options
from pqlite.bench.server import Server
from pqlite.bench.statements import statement
from pqlite.bench.tally import Tallies

if TYPE_CHECKING:
    from pqlite.bench.contenders.base import Connection

LOOK_SECONDS = 0.002
STALLED_SECONDS = 60.0


class Run:
    """What scenarios work with; `conn` is the measuring process's own connection."""

    def __init__(self, dsn: str, conn: Connection, server: Server, options: Options, directory: Path) -> None:
        self.dsn, self.conn, self.server, self.options = dsn, conn, server, options
        self.contenders = {name: contender(name) for name in options.contenders}
        self._directory = directory
        self._numbers = itertools.count(1)
        self._may_checkpoint = True

    def tallies(self) -> Tallies:
        """Return new counters, all zero."""
        return Tallies(self._directory / f"tally{next(self._numbers)}")

    def child(self, role: str, name: str, **spec: Any) -> AbstractAsyncContextManager[Child]:
        """Start a process that plays a role for a contender."""
        what = f"{name} ({role.partition(':')[0].removeprefix('roles.')})"
        return child(role, what, contender=name, dsn=self.dsn, uvloop=self.options.uvloop, **spec)

    @asynccontextmanager
    async def workers(
        self, name: str, tallies: Tallies, count: int = 1, role: str = "roles.worker:play", **spec: Any
    ) -> AsyncIterator[list[Child]]:
        """Start worker processes, that wait for "go"."""
        spec = {"tally": tallies.path, "concurrency": self.options.concurrency} | spec
        async with AsyncExitStack() as stack:
            workers = [
                await stack.enter_async_context(self.child(role, name, slot=slot, **spec)) for slot in range(count)
            ]
            for worker in workers:
                await worker.answer()
            yield workers

    async def prepare(self, name: str, load: Load | None = None) -> None:
        """Empty a contender's tables, let jobs wait in them, and let the server vacuum and checkpoint before the
        measurement.
        """
        queue = self.contenders[name]
        await queue.clear(self.conn)
        if load is not None:
            await queue.fill(self.conn, self.dsn, load)
        for table in await self.conn.fetch(statement("tables"), queue.schema):
            await self.conn.execute(f"analyze {table[0]}")
        await self._checkpoint()

    async def _checkpoint(self) -> None:
        if not self._may_checkpoint:
            return
        try:
            await self.conn.execute("checkpoint")
        except asyncpg.InsufficientPrivilegeError:
            self._may_checkpoint = False
            progress("This role may not CHECKPOINT: the server may do it during a measurement.")

    async def started(self, tallies: Tallies, jobs: int, workers: Sequence[Child]) -> None:
        """Return once so many jobs have started.

        Raises:
            BenchError: a worker has ended, or nothing has started for a minute.
        """
        loop = asyncio.get_running_loop()
        before, deadline = -1, 0.0
        while (now := tallies.total) < jobs:
            if now != before:
                before, deadline = now, loop.time() + STALLED_SECONDS
            for worker in workers:
                await worker.check()
            if loop.time() > deadline:
                raise BenchError(
                    f"{workers[0].name} has started no job for {STALLED_SECONDS:g} seconds; {now:,} of {jobs:,} were."
                )
            await asyncio.sleep(LOOK_SECONDS)

    async def settled(self, queue: Contender) -> None:
        """Return once the database shows that all jobs have ended."""
        deadline = asyncio.get_running_loop().time() + STALLED_SECONDS
        while not await queue.settled(self.conn):
            if asyncio.get_running_loop().time() > deadline:
                raise BenchError(f"Jobs of {queue.name} have not ended {STALLED_SECONDS:g} seconds after they started.")
            await asyncio.sleep(LOOK_SECONDS)


def progress(line: str) -> None:
    """Print progress."""
    print(line, file=sys.stderr, flush=True)
