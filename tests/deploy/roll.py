"""A deployment that goes forward, back, and forward again, process by process, while orders come in."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import asyncpg

from pqlite import PgJobStore
from tests.deploy import release_1, release_2
from tests.deploy.fleet import PATIENCE, Fleet
from tests.deploy.load import Load
from tests.deploy.verdict import Figures, judge
from tests.faults.auditor import TABLES
from tests.support import until

LEFT_BEHIND = 10
TRIES = 5
"""More long jobs at once would fill all processes, so that short ones had to wait for nothing but room."""


class Deployment:
    """A fleet of one process for each of `kinds` (True: with the web server), and the orders it gets."""

    def __init__(
        self, dsn: str, directory: Path, *, kinds: Sequence[bool], rate: float, grace: float, export_seconds: float
    ) -> None:
        self.dsn = dsn
        self.kinds = kinds
        self.fleet = Fleet(dsn, directory, grace=grace)
        self.load = Load(self.fleet, rate=rate, export_seconds=export_seconds)
        self.store = PgJobStore(dsn=dsn)
        self.left_behind: list[int] = []
        self.exports: list[int] = []
        self._export_seconds = export_seconds
        self._fresh = 0.75 * (export_seconds - grace)

    async def __aenter__(self) -> Self:
        self._conn = await asyncpg.connect(self.dsn, server_settings={"application_name": "auditor"})
        try:
            await self._conn.execute(TABLES)
            await self.store.start()
            await asyncio.gather(*(self.fleet.start(1, web=web) for web in self.kinds))
            self.load.start()
            await self.done(10)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.load.stop()
        await self.fleet.close()
        await self.store.close()
        await self._conn.close()

    async def roll(self, release: int) -> None:
        """Replace every process by one of the release: start the new one, and stop the old one, if that can be had
        while it has a job that takes longer than it may.
        """
        for old in [each for each in self.fleet.alive if each.release != release]:
            await self.fleet.start(release, web=old.url is not None)
            for _ in range(TRIES):
                if not old.exporting(time.time() - self._fresh):
                    await self.export()
            await self.fleet.stop(old)

    async def export(self) -> None:
        """Enqueue a job that takes long, from outside, so that no process is nearest to it; return when it runs."""
        job_id = await self.store.enqueue(release_1.export.new(len(self.exports), seconds=self._export_seconds))
        self.exports.append(job_id)
        self.fleet.exports.add(job_id)
        await until(lambda: self.fleet.reader.lines("start", job=job_id), f"export {job_id} to start", PATIENCE)

    async def leave_behind(self) -> list[int]:
        """Enqueue, as a producer that was forgotten, the jobs of the release that has no worker any more; return them
        once those of as many orders that came later are DONE.
        """
        (present,) = {each.release for each in self.fleet.alive}
        release = release_2 if present == 1 else release_1
        new = [
            await self.store.enqueue(job)
            for number in range(1, LEFT_BEHIND + 1)
            for job in release.jobs(number, export_seconds=self._export_seconds)
        ]
        self.left_behind += new
        await self.done(LEFT_BEHIND)
        return new

    async def ended(self, ids: Sequence[int]) -> None:
        """Return when these jobs are DONE."""
        count = "select count(*) from pqlite.jobs where id = any ($1) and status = 'DONE'"

        async def look() -> bool:
            return await self._conn.fetchval(count, ids) == len(ids)

        await until(look, f"{len(ids)} jobs to be DONE", PATIENCE)

    async def done(self, orders: int) -> None:
        """Return when all short jobs of so many further orders are DONE."""
        before = len(self.load.orders)

        await until(lambda: len(self.load.orders) >= before + orders, f"{orders} orders", PATIENCE)
        jobs = [job for order in self.load.orders[before : before + orders] for job in order.jobs]
        await self.ended([job for job in jobs if job not in self.fleet.exports])

    async def rows(self, ids: Sequence[int]) -> list[asyncpg.Record]:
        return await self._conn.fetch("select * from pqlite.jobs where id = any ($1) order by id", ids)

    async def finish(self) -> Figures:
        """Let no more orders come, wait for every job and stop everything; return what happened.

        Raises:
            Violation: a promise was broken.
        """
        await self.load.stop()
        left = "select not exists (select from pqlite.jobs where status in ('READY', 'BLOCKED', 'RUNNING'))"
        await until(lambda: self._conn.fetchval(left), "every job to end", PATIENCE + self._export_seconds)
        await asyncio.gather(*map(self.fleet.stop, self.fleet.alive))
        await self.store.close()
        return await judge(self._conn, self.fleet, self.load, self.exports, self.left_behind)
