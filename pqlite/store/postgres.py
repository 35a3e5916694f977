"""PgJobStore: jobs in PostgreSQL. The public verbs are in base.py, their rules there and in ddl/functions.

(Over 300 lines because it is one class: its connections, and one act for each verb.)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg

from pqlite import schema as ddl
from pqlite.errors import ConfigurationError, DedupeConflict, NotStarted, StoreTimeout
from pqlite.events import Observer
from pqlite.job import Enqueued, Job, JobStatus, NewJobs
from pqlite.outcome import Outcome, Verdict
from pqlite.settings import positive, timeout_seconds
from pqlite.store.awaiting import Ended, Watcher
from pqlite.store.base import CLOSED, NOT_STARTED, JobStore
from pqlite.store.batches import batch_of, enqueue_batch
from pqlite.store.columns import KEY
from pqlite.store.completion import complete_on, completing, free_key, was_completed
from pqlite.store.connecting import acquired, ask_about, between_users, dedicated, for_pool, leaving_standbys
from pqlite.store.connections import all_or_none, lent_in_transaction
from pqlite.store.deadlines import Timed, answered_within, in_transaction, while_answering
from pqlite.store.dsn import SHAPE, VARIABLES, address, from_environment
from pqlite.store.engine import Engine, settlement
from pqlite.store.link import Link, is_temporary
from pqlite.store.pausing import QueueStats, Scope
from pqlite.store.pg_schedules import PgSchedules
from pqlite.store.route import Pooling, Route
from pqlite.store.rows import job_from_row
from pqlite.store.specs import EnqueueMiddleware
from pqlite.store.statements import for_schema
from pqlite.store.validation import Row
from pqlite.store.writer import KEY_WAIT, Answer, EnqueueWriter

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from pqlite.store.connecting import Connection
    from pqlite.store.connections import Lent

CLOSE_SECONDS = 5.0
BUSY_PAUSE = 0.05
ELSEWHERE = (
    "The store was started in another event loop, to which its connections belong. A handler in a thread calls it by "
    "anyio.from_thread.run(store.enqueue, job_type, payload)."
)
POOL_CLOSED = "The pool that the store was given is closed."


class PgJobStore(JobStore):
    """Jobs in PostgreSQL.

    Args:
        dsn: the address of PostgreSQL; the store makes a pool of its own and closes it. SQLAlchemy's form is accepted
            too (`postgresql+asyncpg://`, `?ssl=require`). Without dsn, pool and connect the store reads PQLITE_DSN,
            DATABASE_URL, or libpq's variables (PGHOST, PGDATABASE, PGSERVICE, ...), as the commands do. It may be the
            address of a pooler such as PgBouncer in session or transaction mode, which the store detects. With several
            hosts, connections go to the first that accepts writes, unless `target_session_attrs` says otherwise.
        pool: an asyncpg pool of yours instead; the store never closes it. A Worker needs `dsn` or `connect` beside
            it, because it holds connections of its own (4) that must not come from a pool.
        connect: an async function that returns a new asyncpg connection (for IAM tokens, client certificates). It is
            also called from the event loop of the worker's sentinel thread. If a pooler in transaction mode may stand
            between, make them with `statement_cache_size=0`.
        listen_dsn: an address of PostgreSQL that does not lead through a pooler in transaction mode. A worker uses it
            for one connection: for notifications, its advisory lock, its registration and the renewal of its lease.
            Without `listen_dsn`, a worker behind such a pooler polls for jobs, and its death is noticed only when its
            lease ends.
        schema: the schema of pqlite's tables and functions.
        pool_size: the maximum number of connections in the store's own pool.
        timeout: how long (seconds or a timedelta) a verb waits for a connection from the pool, and then for the answer
            to each of its statements, before it raises StoreTimeout and closes the connection. A verb with many
            statements (`enqueue_many`) may take longer in total. The timeout does not apply to your own statements (on
            `conn=`, or in `connection()`, `transaction()` and `ctx.complete()`), nor to a worker's own connections.
        max_payload_bytes: the maximum size of a payload and of metadata in `enqueue`, and of a result in `complete` and
            `mark_*`. (The result that a handler returns may be larger.)
        strict: refuse a `conn=` that is in no transaction, unless the call says otherwise.
        middleware: functions that are called with each job before it is enqueued, in order, and return it, changed or
            not (`(NewJob) -> NewJob`).
        observers: are called with events about jobs that are enqueued, cancelled and retried through this store (see
            pqlite.events); no call waits for them. `store.events.subscribe` adds one later. A worker has observers of
            its own.

    Raises:
        ConfigurationError: there is no address of a database, or one is malformed; the schema's name is not a plain
            identifier; or another argument is invalid.

    Sessions of the store's own pool use READ COMMITTED and may write, whatever the defaults of the role are. The
    timeouts that are set for the role apply.
    """

    def __init__(
        self,
        dsn: str | None = None,
        pool: asyncpg.Pool[Any] | None = None,
        *,
        connect: Callable[[], Awaitable[asyncpg.Connection[Any]]] | None = None,
        listen_dsn: str | None = None,
        schema: str = ddl.DEFAULT,
        pool_size: int = 10,
        timeout: float | timedelta = 30.0,
        max_payload_bytes: int = 1024 * 1024,
        strict: bool = False,
        middleware: Sequence[EnqueueMiddleware] = (),
        observers: Sequence[Observer] = (),
    ) -> None:
        if dsn is None and pool is None and connect is None:
            dsn = _named_by_environment()
        if pool is not None and not hasattr(pool, "acquire"):
            raise ConfigurationError(f"pool must be one of asyncpg's (asyncpg.create_pool), not {pool!r}")
        super().__init__(
            watcher=Watcher(self._ended, is_temporary),
            max_payload_bytes=max_payload_bytes,
            strict=strict,
            middleware=middleware,
            observers=observers,
        )
        self.schema = schema
        self._sql = for_schema(schema)
        checked = None if dsn is None else address(dsn)
        self._route = None if checked is None and connect is None else Route(checked, connect)
        self._listen_route = self._route
        if listen_dsn is not None:
            self._listen_route = Route(address(listen_dsn, "listen_dsn"), name="listen_dsn")
        self._given_pool = pool
        self._pool = pool
        self._loop: asyncio.AbstractEventLoop | None = None  # of the pool, if the store made it
        self._timeout = timeout_seconds("timeout", timeout)
        self._writer = None if pool is None else self._writing(pool)
        self._pool_size = positive("pool_size", pool_size)

    def __repr__(self) -> str:
        """Without the DSN: it may hold a password."""
        return f"<PgJobStore schema={self.schema!r} started={self.started}>"

    # Lifetime

    @property
    def started(self) -> bool:
        """Return whether the store can be used."""
        return self._pool is not None

    async def start(self) -> None:
        """Make the pool, unless one was given; see JobStore.start."""
        if self._pool is None:
            route = self._own_route()
            self._loop = asyncio.get_running_loop()
            self._pool = await asyncpg.create_pool(
                min_size=0,
                max_size=self._pool_size,
                connect=lambda *_args, **_kwargs: for_pool(route),
                reset=lambda conn: between_users(route, conn),
            )
            self._writer = self._writing(self._pool)

    async def _close(self) -> None:
        if self._pool is None or self._writer is None or self._given_pool is not None:
            return
        pool, jobs_writer = self._pool, self._writer
        self._pool = self._writer = None
        self._watcher.abort(NotStarted(CLOSED))
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await jobs_writer.idle()
                await pool.close()
        except BaseException as error:  # also CancelledError: close() is not called a second time
            jobs_writer.abort(NotStarted("The store was closed before the database said that the job was enqueued."))
            pool.terminate()
            if not isinstance(error, TimeoutError):
                raise
            logger.warning("Connections of the store's pool were still in use at close; they were terminated.")

    def _writing(self, pool: asyncpg.Pool[Any]) -> EnqueueWriter:
        return EnqueueWriter(pool, self._sql, self._timeout, self._enqueued)

    # Connections

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Yield a connection of the pool; see JobStore.connection."""
        pool = self._usable_pool()
        async with acquired(pool, self._timeout) as conn, leaving_standbys(pool):
            yield conn

    def _see_usable(self) -> None:
        self._usable_pool()

    def _usable_pool(self) -> asyncpg.Pool[Any]:
        if self._pool is None:
            raise NotStarted(NOT_STARTED)
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise NotStarted(ELSEWHERE)
        if self._pool.is_closing():
            raise NotStarted(POOL_CLOSED)
        return self._pool

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Yield a connection in a transaction; see JobStore.transaction."""
        async with self.connection() as conn:
            async with in_transaction(conn, self._timeout):
                yield conn

    @asynccontextmanager
    async def _timed(self) -> AsyncIterator[Timed]:
        """Yield a connection of the pool on which each statement has a deadline."""
        async with self.connection() as conn:
            yield Timed(conn, self._timeout)

    def engine(self, purpose: str) -> Engine:
        """Return a worker's engine on a new connection of its own, which belongs to the running event loop.

        Raises:
            ConfigurationError: the store has only a pool.
        """
        return Engine(Link(partial(dedicated, self._own_route(), purpose)), self._sql)

    def listening_engine(
        self, purpose: str, on_connect: Callable[[asyncpg.Connection[Any]], Awaitable[None]]
    ) -> Engine:
        """Return an engine whose connection uses `listen_dsn` if there is one; `on_connect` is called with each new
        connection.

        Raises:
            ConfigurationError: the store has only a pool.
        """
        self._own_route()
        assert self._listen_route is not None
        return Engine(Link(partial(dedicated, self._listen_route, purpose), on_connect), self._sql)

    def _own_route(self) -> Route:
        if self._route is None:
            raise ConfigurationError(
                "A worker needs connections of its own: give PgJobStore dsn= or connect= beside pool="
            )
        return self._route

    @property
    def pooling(self) -> Pooling | None:
        """Return which kind of pooler the latest connection went through; None before the first connection, and if the
        pool is yours.
        """
        return None if self._route is None else self._route.pooling

    @property
    def listen_pooling(self) -> Pooling | None:
        """Return the same for the connection that listens."""
        return None if self._listen_route is None else self._listen_route.pooling

    # Schema

    async def migrate(self) -> list[int]:
        """Bring the database's schema up to date; see JobStore.migrate."""
        async with self.migrating() as conn:
            return await ddl.migrate(conn, self.schema)

    @asynccontextmanager
    async def migrating(self) -> AsyncIterator[Connection]:
        """Yield a connection of the pool for statements that may take hours (an index on many jobs). Instead of a
        deadline, the store checks on a second connection that the database still answers. A store with only a `pool=`
        has no second connection and does not check.

        Raises:
            StoreTimeout: as for `connection`; or the database no longer answers.
        """
        async with self.connection() as conn:
            if (route := self._route) is None:
                yield conn
                return
            ask = partial(ask_about, route, conn.get_server_pid(), self._timeout)
            async with while_answering(self._timeout, conn, ask):
                yield conn

    async def check_schema(self) -> str | None:
        """Check that a worker of this version can run on the database's schema: it has the version that is needed, or a
        newer compatible one. Return a warning if something does not work as it should (the trigger that wakes workers
        is disabled), else None.

        Raises:
            SchemaError: the schema is missing, older, or too new; the message says what to run.
        """
        async with self.connection() as conn:
            async with answered_within(self._timeout, conn):
                return await ddl.check(conn, self.schema)

    # Pauses and schedules

    async def _pause(self, scope: Scope, name: str, reason: str | None, by: str | None, until: datetime | None) -> None:
        await self._rows(self._sql.pause, scope, name, reason, by, until)

    async def _resume(self, scope: Scope, name: str) -> bool:
        return bool((await self._rows(self._sql.resume, scope, name))[0][0])

    async def _pauses(self) -> Sequence[Any]:
        return await self._rows(self._sql.pauses)

    async def queue_stats(self) -> list[QueueStats]:
        """Return what waits, runs and has ended in the last hour, per queue and job type."""
        return [QueueStats(*row) for row in await self._rows(self._sql.queue_stats)]

    def _schedules(self) -> PgSchedules:
        return PgSchedules(self._rows, self._sql)

    # Enqueue

    async def _lend(self, conn: Any, strict: bool | None, what: str) -> Lent:
        return await lent_in_transaction(conn, strict=self._strict if strict is None else strict, what=what)

    async def _insert(self, values: Row, conn: Any, lent: Lent | None) -> Answer:
        if lent is None:
            self._usable_pool()
            assert self._writer is not None  # made with the pool
            return await self._writer.write(values)
        if values[KEY] is not None:
            await free_key(conn, (values[KEY],))
        [answer] = await lent.fetch(self._sql.enqueue, *values, None)
        return Answer(*answer)

    async def _insert_many(
        self, jobs: NewJobs, conn: Any, lent: Lent | None, progress: Callable[[int, int], None] | None
    ) -> list[Enqueued[Any]]:
        batch = await batch_of(jobs, self._max_payload_bytes)
        if batch.total == 0:
            return []
        if lent is not None:
            async with nullcontext() if batch.single and progress is None else all_or_none(lent):
                return await enqueue_batch(lent, self._sql, batch, progress, free_key=partial(free_key, conn))
        async with self.transaction() as own:
            verdicts = await enqueue_batch(Timed(own, self._timeout), self._sql, batch, progress, KEY_WAIT)
        self._enqueued()
        return verdicts

    async def _locked_by(self, job_id: int, lent: Lent | None) -> str | None:
        found = await self._rows(self._sql.holder, job_id, lent=lent)
        return found[0][0] if found else None

    # Look and act

    async def _rows(self, sql: str, *args: Any, lent: Lent | None = None) -> Sequence[Any]:
        async with self._timed() if lent is None else nullcontext(lent) as conn:
            rows: Sequence[Any] = await conn.fetch(sql, *args)
        return rows

    async def _read(self, job_id: int) -> Job | None:
        found = await self._rows(self._sql.get, job_id)
        return job_from_row(found[0]) if found else None

    async def _ended(self, job_ids: list[int]) -> list[Ended]:
        rows = await self._rows(self._sql.ended, job_ids)
        return [Ended(r[0], None if r[1] is None else JobStatus(r[1]), *r[2:]) for r in rows]

    async def _cancel(self, job_id: int, lent: Lent | None) -> JobStatus | None:
        status = (await self._rows(self._sql.cancel, job_id, lent=lent))[0][0]
        return None if status is None else JobStatus.RUNNING if status == "REQUESTED" else JobStatus(status)

    async def _retry(self, job_id: int) -> JobStatus | None:
        try:
            before = (await self._rows(self._sql.retry, job_id))[0][0]
        except asyncpg.UniqueViolationError:
            raise DedupeConflict(f"A newer active job holds the dedupe key of job {job_id}.") from None
        return None if before is None else JobStatus(before)

    # One job at a time, without a worker

    async def _claim_one(
        self, holder: str, queues: Sequence[str] | None, job_types: Sequence[str] | None
    ) -> Job | None:
        found = await self._rows(self._sql.pickup, holder, queues, job_types)
        return job_from_row(found[0]) if found else None

    async def _settle_one(self, outcome: Outcome) -> Verdict:
        claimed, ends = outcome.job, time.monotonic() + self._timeout
        while True:
            refused = await self._rows(self._sql.settle, *settlement(claimed.locked_by or "", [outcome]))
            if not refused:
                return Verdict.WRITTEN
            if refused[0][2] != Verdict.BUSY:
                return Verdict(refused[0][2])
            if time.monotonic() > ends:
                raise StoreTimeout(
                    f"Another transaction has held job {claimed.id} for {self._timeout:g} s; nothing was written.",
                    may_have_happened=False,
                )
            await asyncio.sleep(BUSY_PAUSE)

    async def _progress(self, job: Job, progress: str | None) -> Verdict:
        return Verdict((await self._rows(self._sql.progress, job.locked_by, job.id, job.claims, progress))[0][0])

    async def _reap_stale(self, older_than: timedelta) -> int:
        return len(await self._rows(self._sql.reap_stale, older_than))

    async def prune(
        self, done: timedelta | None, failed: timedelta | None, cursor: int | None = None, *, chunk: int = 1000
    ) -> tuple[int | None, int]:
        """Delete one chunk of the jobs that finished longer ago than `done` (DONE) or `failed` (FAILED, CANCELLED);
        None keeps them for ever. Return the cursor for the next call (None: the end was reached) and the number
        deleted.
        """
        next_cursor, deleted, _ = await self.prune_chunk(done, failed, cursor, chunk=chunk)
        return next_cursor, deleted

    async def prune_chunk(
        self, done: timedelta | None, failed: timedelta | None, cursor: int | None = None, *, chunk: int = 1000
    ) -> tuple[int | None, int, float | None]:
        """Delete as `prune` does; return also for how many seconds no job between the two cursors can be due for
        deletion (None if that is not known).
        """
        [found] = await self._rows(self._sql.prune, done, failed, cursor, chunk)
        return found[0], found[1], found[2]

    # Completion in a transaction

    def _completing(self, job: Job, result: str | None) -> AbstractAsyncContextManager[Connection]:
        return completing(self, self._sql, job, result, timeout=self._timeout)

    async def _complete_on(self, conn: Any, job: Job, result: str | None) -> None:
        lent = await self._lend(conn, True, f"Job {job.id} was completed")
        await complete_on(lent, self._sql, job, result)

    async def was_completed(self, job: Job) -> bool:
        """Return whether this claim of the job ended as DONE; see JobStore.was_completed."""
        return await was_completed(self, self._sql, job)


def _named_by_environment() -> str:
    if (found := from_environment()) is None:
        raise ConfigurationError(
            "PgJobStore needs to know where PostgreSQL is: pass dsn=, pool= or connect=, or set "
            f"{' or '.join(VARIABLES)} to {SHAPE}, or libpq's PGHOST, PGDATABASE or PGSERVICE"
        )
    return found.dsn
