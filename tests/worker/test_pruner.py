"""A pass of the pruner does not read again what stays."""

from datetime import timedelta

import asyncpg
import pytest

from pqlite import PgJobStore
from pqlite.events.announcer import Announcer
from pqlite.worker.pruner import Pruner, Ranges

WEEK = timedelta(days=7)
JOBS = """
    insert into pqlite.jobs (job_type, status, created_at, run_after, finished_at)
    select 't', $1, now() - interval '30 days', now() + $2::interval,
           case when $1 <> 'READY' then now() - $3::interval end
    from generate_series(1, $4)
"""
HOURS = timedelta(hours=1)


class Passes:
    """Passes of a pruner over a real store, with a clock of its own; it reads 10 rows at a time."""

    def __init__(self, store: PgJobStore, *, done: timedelta = WEEK) -> None:
        self.now = 0.0
        self.reads: list[int | None] = []
        self._store = store
        self._pruner = Pruner(
            prune=self._prune, done=done, failed=WEEK * 9, worker_id="w", announce=Announcer(), clock=lambda: self.now
        )

    async def _prune(
        self, done: timedelta | None, failed: timedelta | None, cursor: int | None
    ) -> tuple[int | None, int, float | None]:
        self.reads.append(cursor)
        return await self._store.prune_chunk(done, failed, cursor, chunk=10)

    async def once(self) -> list[int | None]:
        """Make one pass; return where its chunks began."""
        self.reads.clear()
        while await self._pruner.step() < 1:
            pass
        return list(self.reads)


async def jobs(
    conn: asyncpg.Connection, status: str, number: int, *, due: timedelta = -HOURS, ended: timedelta = HOURS
) -> None:
    await conn.execute(JOBS, status, due, ended, number)


@pytest.mark.parametrize("status", ["READY", "FAILED", "DONE"])
async def test_rows_that_stay_are_read_once(store: PgJobStore, conn: asyncpg.Connection, status: str) -> None:
    await jobs(conn, status, 95)
    passes = Passes(store)

    assert await passes.once() == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert await passes.once() == [90]


async def test_done_rows_behind_rows_that_stay_go_in_the_next_pass(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await jobs(conn, "READY", 50, due=30 * WEEK)
    passes = Passes(store)
    await passes.once()
    await jobs(conn, "DONE", 25, ended=2 * WEEK)

    await passes.once()

    assert await conn.fetchval("select count(*) from pqlite.jobs where status = 'DONE'") == 0
    assert await conn.fetchval("select count(*) from pqlite.jobs") == 50


async def test_rows_are_read_again_when_the_earliest_can_be_due(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await jobs(conn, "DONE", 10, ended=timedelta(days=6))
    await jobs(conn, "DONE", 15)
    passes = Passes(store)
    await passes.once()
    await conn.execute("update pqlite.jobs set finished_at = now() - interval '8 days' where id = 3")

    passes.now = timedelta(hours=23).total_seconds()
    assert await passes.once() == [20]
    passes.now = timedelta(hours=25).total_seconds()
    assert (await passes.once())[0] == 0
    assert await conn.fetchval("select count(*) from pqlite.jobs") == 24


async def test_a_short_retention_reads_failed_rows_again_after_an_hour(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await jobs(conn, "FAILED", 25)
    passes = Passes(store, done=timedelta(minutes=1))
    await passes.once()

    passes.now = 3000.0
    assert await passes.once() == [20]
    passes.now = 3700.0
    assert await passes.once() == [0, 10, 20]


def test_a_range_that_is_read_anew_keeps_the_rest_of_those_behind_it() -> None:
    ranges = Ranges()
    ranges.add(0, 10, 5.0)
    ranges.add(10, 20, 50.0)
    assert ranges.past(0, 1.0) == 20
    assert ranges.past(0, 9.0) == 0

    ranges.add(0, 14, 60.0)

    assert ranges.past(0, 9.0) == 20
    assert ranges.past(0, 55.0) == 14
    assert len(ranges) == 2
