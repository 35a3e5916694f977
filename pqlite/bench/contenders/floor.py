"""The bare floor: what asyncpg and a few lines of Python do on the same server.

It is no queue. It claims behind its watermark and never looks back (a commit that came late would be missed), notices
no death, retries nothing and handles no errors. Whatever a queue adds costs something; this says how much.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import asyncpg
from pydantic_core import from_json, to_json

from pqlite.bench.contenders.base import JOB_TYPE, Contender, Load, Payload, Producer, Work
from pqlite.bench.statements import statement

if TYPE_CHECKING:
    from asyncpg.prepared_stmt import PreparedStatement

    from pqlite.bench.contenders.base import Connection

SCHEMA = "pqlite_bench_floor"
CHANNEL = SCHEMA
WRITTEN_INTO = "pqlite_bench"
BATCH = 250
MOST_LANES = 500
EMPTY_PAUSE = 0.001
_BEGINNING = (datetime(1970, 1, 1, tzinfo=UTC), 0)

Mark = tuple[datetime, int]


class Floor(Contender):
    """asyncpg, two SQL functions and a loop."""

    name = "floor"
    schema = SCHEMA
    most_jobs = 1 << 60

    async def install(self, conn: Connection, dsn: str) -> None:
        """Create the tables and functions of sql/floor.sql."""
        await conn.execute(statement("floor"))

    async def clear(self, conn: Connection) -> None:
        """Truncate."""
        await conn.execute(statement("floor_clear"))

    async def fill(self, conn: Connection, dsn: str, load: Load) -> None:
        """Insert rows made by the server."""
        spread = load.jobs, load.job_types, load.priorities, load.queues
        await conn.execute(statement("floor_fill"), *spread, json.dumps(load.payload))

    async def settled(self, conn: Connection) -> bool:
        """Look for a READY or RUNNING job."""
        return bool(await conn.fetchval(statement("floor_settled")))

    @asynccontextmanager
    async def producer(self, dsn: str, callers: int = 1, *, wakes: bool = False) -> AsyncIterator[Producer]:
        """Yield bare INSERTs on a connection per caller, and binary COPY."""
        insert = statement("floor_insert_and_notify" if wakes else "floor_insert")
        async with _producing(dsn, callers, insert, SCHEMA) as producer:
            yield producer

    async def work(self, work: Work) -> None:
        """Run the loop."""
        async with _connection(work.dsn) as claiming, _connection(work.dsn) as settling:
            # A claim that a crash of the server undoes only makes the job READY again.
            await claiming.execute("set synchronous_commit = off")
            loop = await _Loop.over(claiming, settling, work)
            if work.wakes:
                await loop.run_woken(work)
            else:
                await loop.run(work)


class _Producer:
    def __init__(
        self,
        conns: Sequence[asyncpg.Connection[Any]],
        inserts: Sequence[PreparedStatement[asyncpg.Record]],
        schema: str,
    ) -> None:
        self._conn = conns[0]
        self._inserts = inserts
        self._schema = schema

    async def enqueue(self, payload: Payload, *, caller: int = 0) -> None:
        await self._inserts[caller].fetch(to_json(payload).decode())

    async def enqueue_many(self, payloads: Sequence[Payload]) -> None:
        await copy(self._conn, self._schema, payloads)


async def copy(conn: asyncpg.Connection[Any], schema: str, payloads: Sequence[Payload]) -> None:
    """Copy jobs into a schema's table, in PostgreSQL's binary format."""
    records = [(JOB_TYPE, to_json(payload).decode()) for payload in payloads]
    await conn.copy_records_to_table("jobs", schema_name=schema, columns=("job_type", "payload"), records=records)


class _Loop:
    """Claims a batch, starts a task per job, and settles while the next batch is claimed."""

    def __init__(
        self,
        claim: PreparedStatement[asyncpg.Record],
        settle: PreparedStatement[asyncpg.Record],
        worker: str,
        marks: dict[tuple[str, str, int], Mark],
    ) -> None:
        self._claim, self._settle, self._worker = claim, settle, worker
        self._marks = marks

    @classmethod
    async def over(cls, claiming: asyncpg.Connection[Any], settling: asyncpg.Connection[Any], work: Work) -> _Loop:
        """Return the loop over the lanes in which jobs wait, or that of the first job type if none do."""
        found = await claiming.fetch(statement("floor_lanes"))
        lanes = [(row[0], row[1], row[2]) for row in found] or [("default", work.job_types[0], 0)]
        settle = "floor_settle" if work.keep else "floor_settle_and_delete"
        return cls(
            await claiming.prepare(statement("floor_claim")),
            await settling.prepare(statement(settle)),
            f"{Floor.name}-{work.number}",
            dict.fromkeys(lanes, _BEGINNING),
        )

    async def run(self, work: Work) -> None:
        """Work until a stop is requested."""

        async def handler(payload: Any) -> None:
            work.started(payload)

        work.ready()
        writing: asyncio.Future[Any] | None = None
        try:
            while not work.stop.is_set():
                rows = await self._batch(BATCH)
                await asyncio.gather(*[asyncio.ensure_future(handler(from_json(row[3]))) for row in rows])
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(self._written(rows)) if rows else None
                if not rows:
                    await asyncio.sleep(EMPTY_PAUSE)
        finally:
            if writing is not None:
                await writing

    async def run_woken(self, work: Work) -> None:
        """Sleep until a notification comes, claim one job, start it; until a stop is requested."""

        async def handler(payload: Any) -> None:
            work.started(payload)

        notified = asyncio.Event()
        async with _connection(work.dsn) as listening:
            await listening.add_listener(CHANNEL, lambda *_: notified.set())
            work.ready()
            stopping = asyncio.ensure_future(work.stop.wait())
            while not stopping.done():
                waiting = asyncio.ensure_future(notified.wait())
                await asyncio.wait([waiting, stopping], return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                notified.clear()
                while rows := await self._batch(1):
                    await asyncio.ensure_future(handler(from_json(rows[0][3])))
                    await self._written(rows)

    async def _batch(self, limit: int) -> list[asyncpg.Record]:
        lanes = list(islice(self._marks, MOST_LANES))
        marks = [self._marks[lane] for lane in lanes]
        rows = await self._claim.fetch(
            self._worker,
            limit,
            [lane[0] for lane in lanes],
            [lane[1] for lane in lanes],
            [lane[2] for lane in lanes],
            [mark[0] for mark in marks],
            [mark[1] for mark in marks],
        )
        for row in rows:
            lane = lanes[row[0] - 1]
            self._marks[lane] = max(self._marks[lane], (row[6], row[1]))
        if len(self._marks) > 1:
            # Many lanes were filled before the loop began: one that ran dry stays so.
            dry = rows[-1][0] - 1 if len(rows) == limit else len(lanes)
            for lane in lanes[:dry]:
                del self._marks[lane]
            self._marks = self._marks or {lanes[0]: marks[0]}
        return rows

    async def _written(self, rows: Sequence[asyncpg.Record]) -> None:
        claims = {row[1]: row[9] for row in rows}
        while claims:
            batch = sorted(claims)
            refused = await self._settle.fetch(
                self._worker, batch, [claims[job_id] for job_id in batch], [0] * len(batch)
            )
            # Another process's claim, with a snapshot from before ours, may hold a row's lock for a moment.
            claims = {row[0]: claims[row[0]] for row in refused}


@asynccontextmanager
async def _connection(dsn: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    conn = await asyncpg.connect(dsn, server_settings={"application_name": "pqlite bench"})
    try:
        yield conn
    finally:
        await conn.close(timeout=5)


class Writes(Floor):
    """The floor of enqueues: bare INSERTs and binary COPY into pqlite's own table, with its indexes and its trigger."""

    @asynccontextmanager
    async def producer(self, dsn: str, callers: int = 1, *, wakes: bool = False) -> AsyncIterator[Producer]:
        """Yield bare INSERTs on a connection per caller, and binary COPY."""
        async with _producing(dsn, callers, statement("pqlite_insert"), WRITTEN_INTO) as producer:
            yield producer


@asynccontextmanager
async def _producing(dsn: str, callers: int, insert: str, schema: str) -> AsyncIterator[Producer]:
    async with AsyncExitStack() as stack:
        conns = [await stack.enter_async_context(_connection(dsn)) for _ in range(callers)]
        yield _Producer(conns, [await conn.prepare(insert) for conn in conns], schema)
