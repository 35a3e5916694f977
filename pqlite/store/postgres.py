"""PgJobStore: jobs in PostgreSQL. One short method per verb; the rules are in base.py and in ddl/functions.

(Over 300 lines because it is the whole public store, half of it signatures and docstrings; the work is elsewhere.)
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

import asyncpg

from pqlite import schema as ddl
from pqlite.codec import encode_clean
from pqlite.errors import (
    ConfigurationError,
    DedupeConflict,
    HeldByCancelledJob,
    JobNotFound,
    LeaseLost,
    NotStarted,
    StoreTimeout,
)
from pqlite.events import CancelRequested, EnqueuedJob, JobsEnqueued, Observer, RetryRequested
from pqlite.events.announcer import Announcer
from pqlite.job import Enqueued, Job, JobId, JobOptions, JobOutcome, JobStatus, NewJob, NewJobs, TypedJob, TypedJobs
from pqlite.outcome import Outcome, Verdict
from pqlite.settings import positive, timeout_seconds
from pqlite.store import writer
from pqlite.store.awaiting import Ended, Watcher, outcome_of, patience
from pqlite.store.batches import batch_of, enqueue_batch, may_be_own, refuse_own_key, tell_cancelling
from pqlite.store.by_hand import ByHand
from pqlite.store.completion import complete_on, completing, free_key, was_completed
from pqlite.store.connecting import acquired, ask_about, between_users, dedicated, for_pool, leaving_standbys
from pqlite.store.connections import all_or_none, lent_in_transaction
from pqlite.store.deadlines import Timed, answered_within, in_transaction, while_answering
from pqlite.store.dsn import SHAPE, VARIABLES, address, from_environment
from pqlite.store.link import Link, is_weather
from pqlite.store.pg_engine import PgEngine, settlement
from pqlite.store.pg_schedules import PgSchedules
from pqlite.store.route import Pooling, Route
from pqlite.store.rows import job_from_row
from pqlite.store.scheduling import ScheduleVerbs
from pqlite.store.specs import (
    EnqueueMiddleware,
    Noted,
    all_passed_through,
    layers,
    passed_through,
    several,
    specified,
    typed_id,
)
from pqlite.store.statements import for_schema
from pqlite.store.validation import checked_id, duration, name, names, row
from pqlite.store.writer import Answer, EnqueueWriter

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from pqlite.store.connecting import Connection
    from pqlite.store.connections import Lent

R = TypeVar("R")

CLOSE_SECONDS = 5.0
BUSY_PAUSE = 0.05
NOT_STARTED = "The store is not started: 'await store.start()', or let a worker's lifespan do it."
ELSEWHERE = (
    "The store was started in another event loop, to which its connections belong. A handler in a thread calls it by "
    "anyio.from_thread.run(store.enqueue, job_type, payload)."
)
POOL_CLOSED = "The pool that the store was given is closed."


class PgJobStore(ScheduleVerbs):
    """Jobs in PostgreSQL.

    Args:
        dsn: where PostgreSQL is; the store makes a pool of its own and closes it. SQLAlchemy's form is accepted, too
            (`postgresql+asyncpg://`, `?ssl=require`). Without dsn, pool and connect it is what PQLITE_DSN or
            DATABASE_URL says, else libpq's variables (PGHOST, PGDATABASE, PGSERVICE, ...), as for the commands. A
            pooler such as PgBouncer may stand between, in session or transaction mode: that is noticed. With several
            hosts, connections go to the first that accepts writes, unless `target_session_attrs` says otherwise.
        pool: an asyncpg pool of yours instead; the store never closes it. A Worker needs `dsn` or `connect` beside
            it, because it holds connections of its own (4) that must not come from a pool.
        connect: an async function that returns a new asyncpg connection (for IAM tokens, client certificates). It is
            also called from the event loop of the worker's sentinel thread. If a pooler in transaction mode may stand
            between, make them with `statement_cache_size=0`.
        listen_dsn: where PostgreSQL is reached without a pooler in transaction mode: a worker's one connection for
            notifications, its lock, its registration and the renewal of its lease, without which it claims nothing.
            Without it a worker behind one polls, and is missed when its lease ends.
        schema: where pqlite's tables and functions are.
        pool_size: most connections of the store's own pool.
        timeout: how long (seconds or a timedelta) a verb waits for a connection of the pool, and then for the answer to
            each of its statements, before it ends with StoreTimeout and closes the connection. One with many statements
            (`enqueue_many`) may take longer in all. It does not hold for your own statements, on `conn=` or in
            `connection()`, `transaction()` and `ctx.complete()`, nor for a worker's connections, which have their own.
        max_payload_bytes: a larger payload, or larger metadata, is refused by `enqueue`; a larger result by `complete`
            and `mark_*` (what a handler returns may be larger).
        strict: refuse a `conn=` that is in no transaction, unless the call says otherwise.
        middleware: functions that see, and may change, each job that is enqueued (`(NewJob) -> NewJob`), in order.
        observers: hear of what is enqueued, cancelled and retried through this store (see pqlite.events); nothing waits
            for them. `store.events.subscribe` adds one later. What a worker does, its own observers hear.

    Raises:
        ConfigurationError: nothing says where the database is, a dsn cannot be one, the schema's name is not a plain
            identifier, or another argument cannot work.

    Sessions of its own pool are READ COMMITTED and may write, whatever the role's defaults; the role's timeouts hold.
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
        self.schema = schema
        self._sql = for_schema(schema)
        checked = None if dsn is None else address(dsn)
        self._route = None if checked is None and connect is None else Route(checked, connect)
        self._listen_route = self._route
        if listen_dsn is not None:
            self._listen_route = Route(address(listen_dsn, "listen_dsn"), name="listen_dsn")
        self._given_pool = pool
        self._pool = pool
        self._loop: asyncio.AbstractEventLoop | None = None  # whose the pool is, if the store made it
        self._timeout = timeout_seconds("timeout", timeout)
        self._writer = None if pool is None else self._writing(pool)
        self._pool_size = positive("pool_size", pool_size)
        self._max_payload_bytes = positive("max_payload_bytes", max_payload_bytes)
        self._strict = strict
        self._middleware = layers(middleware)
        self.events = Announcer(observers)
        self._by_hand = ByHand(max_payload_bytes)
        self._watcher = Watcher(self._ended, is_weather)
        self._enqueue_listeners: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        """Without the DSN: it may hold a password."""
        return f"<PgJobStore schema={self.schema!r} started={self.started}>"

    # Lifetime

    @property
    def started(self) -> bool:
        """Return whether the store can be used."""
        return self._pool is not None

    async def start(self) -> None:
        """Make the pool, unless one was given. Connections are made when first needed, so this works while the
        database is away.
        """
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

    async def close(self) -> None:
        """Close the pool if the store made it. Waits up to 5 seconds for connections in use, then cuts them off; and up
        to a second for observers.

        Jobs that are being enqueued are written within that time, or their callers get an error.
        """
        try:
            await self._close_pool()
        except asyncio.CancelledError:
            await self.events.finish(0.0)
            raise
        except BaseException:
            await self.events.finish()
            raise
        await self.events.finish()

    async def _close_pool(self) -> None:
        if self._pool is None or self._writer is None or self._given_pool is not None:
            return
        pool, jobs_writer = self._pool, self._writer
        self._pool = self._writer = None
        self._watcher.abort(NotStarted("The store was closed while somebody waited for a job."))
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await jobs_writer.idle()
                await pool.close()
        except BaseException as error:  # also cancelled: nobody closes it a second time
            jobs_writer.abort(NotStarted("The store was closed before the database said that the job was enqueued."))
            pool.terminate()
            if not isinstance(error, TimeoutError):
                raise
            logger.warning("Connections of the store's pool were still in use at close; they were terminated.")

    def _writing(self, pool: asyncpg.Pool[Any]) -> EnqueueWriter:
        return EnqueueWriter(pool, self._sql, self._timeout, self._enqueued)

    async def __aenter__(self) -> PgJobStore:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close."""
        await self.close()

    # Connections

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Yield a connection of the pool, which goes back to it afterwards.

        Raises:
            NotStarted: before start() or after close(), in another event loop, or the given pool was closed.
            StoreTimeout: the pool had none to give within the store's `timeout`.
            ConnectionError: what the pool waited for was cancelled, by somebody else.
        """
        pool = self._usable_pool()
        async with acquired(pool, self._timeout) as conn, leaving_standbys(pool):
            yield conn

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
        """Yield a connection in a transaction: committed when the block ends, rolled back when it raises.

        Your own statements in it have no deadline of the store's.

        Raises:
            StoreTimeout: as for `connection`; or begin or commit were not answered in time. After a commit that was
                not, `may_have_happened` is true.
        """
        async with self.connection() as conn:
            async with in_transaction(conn, self._timeout):
                yield conn

    @asynccontextmanager
    async def _timed(self) -> AsyncIterator[Timed]:
        """Yield a connection of the pool on which each statement has a deadline: for pqlite's own statements."""
        async with self.connection() as conn:
            yield Timed(conn, self._timeout)

    def engine(self, purpose: str) -> PgEngine:
        """Return the worker's verbs over a new dedicated connection, which belongs to the running event loop.

        Raises:
            ConfigurationError: the store only has a pool.
        """
        return PgEngine(Link(partial(dedicated, self._own_route(), purpose)), self._sql)

    def listening_engine(
        self, purpose: str, on_connect: Callable[[asyncpg.Connection[Any]], Awaitable[None]]
    ) -> PgEngine:
        """Return the same over a connection of `listen_dsn`, if there is one; `on_connect` is called with each new one.

        Raises:
            ConfigurationError: the store only has a pool.
        """
        self._own_route()
        assert self._listen_route is not None
        return PgEngine(Link(partial(dedicated, self._listen_route, purpose), on_connect), self._sql)

    def _own_route(self) -> Route:
        if self._route is None:
            raise ConfigurationError(
                "A worker needs connections of its own: give PgJobStore dsn= or connect= beside pool="
            )
        return self._route

    @property
    def pooling(self) -> Pooling | None:
        """Return what pooler the latest connection met, None before the first and where the pool is yours."""
        return None if self._route is None else self._route.pooling

    @property
    def listen_pooling(self) -> Pooling | None:
        """Return the same of the connection that listens."""
        return None if self._listen_route is None else self._listen_route.pooling

    # Schema

    async def migrate(self) -> list[int]:
        """Bring the database's schema up to date; return the versions applied. Safe to call from several processes.

        Each version is a transaction of its own, which waits 2 s at most for a lock and is tried again up to 20 times.
        A schema that is newer but still serves this pqlite is left as it is.

        Raises:
            SchemaError: the server is older than PostgreSQL 14; its schema is newer and no longer serves this pqlite;
                or others held on to their locks. The versions before that one stay applied.
        """
        async with self.migrating() as conn:
            return await ddl.migrate(conn, self.schema)

    @asynccontextmanager
    async def migrating(self) -> AsyncIterator[Connection]:
        """Yield a connection of the pool for steps of which one may take hours (an index on many jobs): for as long as
        the database answers on a connection beside it. A store with only a `pool=` has no such, and sets no deadline.

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
        """Return if a worker of this pqlite can run on the database's schema: it is the version that this pqlite needs,
        or a newer one that still serves it. What is returned is a sentence about what works worse than it should (the
        trigger that wakes workers is disabled), None if there is nothing.

        Raises:
            SchemaError: it is missing, older or too new; the message says what to run.
        """
        async with self.connection() as conn:
            async with answered_within(self._timeout, conn):
                return await ddl.check(conn, self.schema)

    # Schedules

    def _schedules(self) -> PgSchedules:
        return PgSchedules(self._fetch, self._sql)

    async def _fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        async with self.connection() as conn:
            return await conn.fetch(sql, *args)

    # Enqueue

    def on_enqueue(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each statement of this store that has enqueued jobs, once it is committed; return a
        function that stops that.
        """
        self._enqueue_listeners.append(listener)
        return lambda: self._enqueue_listeners.remove(listener)

    @overload
    async def enqueue(
        self, job: TypedJob[R], /, *, conn: Any = None, strict: bool | None = None, **options: Unpack[JobOptions]
    ) -> JobId[R]: ...

    @overload
    async def enqueue(
        self, job: NewJob, /, *, conn: Any = None, strict: bool | None = None, **options: Unpack[JobOptions]
    ) -> int: ...

    @overload
    async def enqueue(
        self,
        job_type: str,
        payload: Any = None,
        *,
        conn: Any = None,
        strict: bool | None = None,
        **options: Unpack[JobOptions],
    ) -> int: ...

    async def enqueue(
        self,
        job_type: str | NewJob,
        payload: Any = None,
        *,
        conn: Any = None,
        strict: bool | None = None,
        **options: Unpack[JobOptions],
    ) -> int:
        """Add a job and return its id; see JobStore.enqueue."""
        job = specified(job_type, payload, options)
        if self._middleware:
            job = passed_through(self._middleware, job)
        values = row(job, self._max_payload_bytes)
        callers = None
        if conn is not None:
            callers = await self._lent(conn, strict, "A job was enqueued")
            if job.dedupe_key is not None:
                await free_key(conn, (job.dedupe_key,))
            [answer] = [Answer(*found) for found in await callers.fetch(self._sql.enqueue, *values, None)]
        else:
            self._usable_pool()
            assert self._writer is not None  # made with the pool
            answer = await self._writer.write(values)
        if not answer.inserted and job.dedupe_key is not None:
            await self._see_holder(job.dedupe_key, answer, callers)
        if self.events.wanted:
            enqueued = EnqueuedJob(answer.id, job.job_type, job.queue, answer.inserted)
            self.events(JobsEnqueued([enqueued], committed=conn is None))
        return typed_id(job, answer.id)

    @overload
    async def enqueue_many(
        self,
        jobs: TypedJobs[R],
        *,
        conn: Any = None,
        strict: bool | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Enqueued[JobId[R]]]: ...

    @overload
    async def enqueue_many(
        self,
        jobs: NewJobs,
        *,
        conn: Any = None,
        strict: bool | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Enqueued[int]]: ...

    async def enqueue_many(
        self,
        jobs: NewJobs,
        *,
        conn: Any = None,
        strict: bool | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Enqueued[Any]]:
        """Add many jobs in one transaction; see JobStore.enqueue_many."""
        callers = None if conn is None else await self._lent(conn, strict, "Jobs were enqueued")
        noted = Noted() if self.events.wanted else None
        middleware = self._middleware if noted is None else (*self._middleware, noted.note)
        jobs = several(jobs)
        if middleware:
            jobs = all_passed_through(middleware, jobs)
        batch = await batch_of(jobs, self._max_payload_bytes)
        if batch.total == 0:
            return []
        if callers is not None:
            async with nullcontext() if batch.single and progress is None else all_or_none(callers):
                verdicts = await enqueue_batch(callers, self._sql, batch, progress, free_key=partial(free_key, conn))
        else:
            async with self.transaction() as own:
                verdicts = await enqueue_batch(Timed(own, self._timeout), self._sql, batch, progress, writer.KEY_WAIT)
            self._enqueued()
        tell_cancelling(verdicts)
        if noted is not None:
            self.events(JobsEnqueued(noted.enqueued(verdicts), committed=conn is None))
        return verdicts

    async def _see_holder(self, key: str, answer: Answer, callers: Lent | None) -> None:
        """Raise if the job that holds a key will not do the work of the one that was to be enqueued."""
        if may_be_own((key,), answer.id):
            if callers is not None:
                await refuse_own_key(callers, self._sql, (key,), answer.id)
            else:
                async with self.connection() as conn:
                    await refuse_own_key(Timed(conn, self._timeout), self._sql, (key,), answer.id)
        if answer.cancelling:
            raise HeldByCancelledJob(key, answer.id)

    async def _lent(self, conn: Any, strict: bool | None, what: str) -> Lent:
        return await lent_in_transaction(conn, strict=self._strict if strict is None else strict, what=what)

    def _enqueued(self) -> None:
        for listener in tuple(self._enqueue_listeners):
            listener()

    # Look and act

    async def get(self, job_id: int) -> Job:
        """Return a job; see JobStore.get."""
        async with self._timed() as conn:
            found = await conn.fetchrow(self._sql.get, checked_id(job_id))
        if found is None:
            raise JobNotFound(f"There is no job {job_id}.")
        return job_from_row(found)

    @overload
    async def wait_for(
        self,
        job_id: JobId[R],
        *,
        timeout: float | timedelta | None = 30.0,
        poll_interval: float | timedelta = 1.0,
        raise_on_failure: Literal[True] = True,
    ) -> JobOutcome[R]: ...

    @overload
    async def wait_for(
        self,
        job_id: JobId[R],
        *,
        timeout: float | timedelta | None = 30.0,
        poll_interval: float | timedelta = 1.0,
        raise_on_failure: bool,
    ) -> JobOutcome[R | None]: ...

    @overload
    async def wait_for(
        self,
        job_id: int,
        *,
        timeout: float | timedelta | None = 30.0,
        poll_interval: float | timedelta = 1.0,
        raise_on_failure: bool = True,
    ) -> JobOutcome[Any]: ...

    async def wait_for(
        self,
        job_id: int,
        *,
        timeout: float | timedelta | None = 30.0,
        poll_interval: float | timedelta = 1.0,
        raise_on_failure: bool = True,
    ) -> JobOutcome[Any]:
        """Return how a job has ended, when it has; see JobStore.wait_for."""
        longest, most = patience(timeout, poll_interval)
        self._usable_pool()  # the watcher belongs to its event loop
        ended = await self._watcher.wait(checked_id(job_id), longest, most)
        return outcome_of(job_id, ended, raise_on_failure=raise_on_failure)

    def look_again(self, job_ids: Iterable[int]) -> None:
        """Look at these jobs at once, if anybody waits for them; see WorkerStore.look_again."""
        self._watcher.look_again(job_ids)

    async def _ended(self, job_ids: list[int]) -> list[Ended]:
        async with self._timed() as conn:
            rows = await conn.fetch(self._sql.ended, job_ids)
        return [Ended(r[0], None if r[1] is None else JobStatus(r[1]), *r[2:]) for r in rows]

    async def cancel(self, job_id: int, *, conn: Any = None, strict: bool | None = None) -> JobStatus:
        """Cancel a job; see JobStore.cancel."""
        callers = None if conn is None else await self._lent(conn, strict, "A job was cancelled")
        answer = await self._status(self._sql.cancel, job_id, callers)
        status = JobStatus.RUNNING if answer == "REQUESTED" else JobStatus(answer)
        if self.events.wanted:
            self.events(CancelRequested(job_id, status, committed=conn is None))
        self.look_again((job_id,))
        return status

    async def retry(self, job_id: int) -> JobStatus:
        """Run a job again, now; see JobStore.retry."""
        try:
            before = JobStatus(await self._status(self._sql.retry, job_id))
        except asyncpg.UniqueViolationError:
            raise DedupeConflict(f"A newer active job holds the dedupe key of job {job_id}.") from None
        status = before if before in (JobStatus.RUNNING, JobStatus.BLOCKED) else JobStatus.READY
        if status is JobStatus.READY:
            self._enqueued()
        if self.events.wanted:
            self.events(RetryRequested(job_id, status))
        return status

    async def _status(self, sql: str, job_id: int, callers: Lent | None = None) -> str:
        job_id = checked_id(job_id)
        async with self._timed() if callers is None else nullcontext(callers) as conn:
            status = (await conn.fetch(sql, job_id))[0][0]
        if status is None:
            raise JobNotFound(f"There is no job {job_id}.")
        return str(status)

    # One job at a time, without a worker

    async def pickup(
        self, worker_id: str, *, queues: Iterable[str] | None = None, job_types: Iterable[str] | None = None
    ) -> Job | None:
        """Claim the best due job of any type (or of some queues and types); see JobStore.pickup."""
        holder = f"{name('worker_id', worker_id, 200)}-{secrets.token_hex(4)}"
        async with self._timed() as conn:
            found = await conn.fetchrow(
                self._sql.pickup,
                holder,
                None if queues is None else names("queues", queues, 200),
                None if job_types is None else names("job_types", job_types, 200),
            )
        if found is None:
            return None
        job = job_from_row(found)
        self._by_hand.picked_up(job)
        return job

    async def mark_done(self, job: Job | int, *, result: Any = None, duration_ms: float | None = None) -> None:
        """Record that a claimed job is done; see JobStore.mark_done."""
        await self._settle_one(self._by_hand.done(job, result=result, duration_ms=duration_ms))

    async def mark_error(
        self,
        job: Job | int,
        error: str,
        *,
        retry_after: timedelta | None = None,
        terminal: bool = False,
        duration_ms: float | None = None,
        result: Any = None,
    ) -> None:
        """Record that an attempt failed; see JobStore.mark_error."""
        outcome = self._by_hand.error(
            job, error, retry_after=retry_after, terminal=terminal, result=result, duration_ms=duration_ms
        )
        await self._settle_one(outcome)

    async def _settle_one(self, outcome: Outcome) -> None:
        claimed, ends = outcome.job, time.monotonic() + self._timeout
        while True:
            async with self._timed() as conn:
                refused = await conn.fetch(self._sql.settle, *settlement(claimed.locked_by or "", [outcome]))
            if not refused or refused[0][2] != Verdict.BUSY:
                break
            if time.monotonic() > ends:
                raise StoreTimeout(
                    f"Another transaction has held job {claimed.id} for {self._timeout:g} s; nothing was written.",
                    may_have_happened=False,
                )
            await asyncio.sleep(BUSY_PAUSE)
        self._by_hand.settled(claimed)
        self.look_again((claimed.id,))
        if refused and refused[0][2] == Verdict.FENCED:
            raise LeaseLost(f"The claim on job {claimed.id} is no longer current; nothing was changed.")

    async def reap_stale(self, *, default_stale_after: timedelta = timedelta(minutes=20)) -> int:
        """Give back abandoned RUNNING jobs, by age; see JobStore.reap_stale."""
        older_than = duration("default_stale_after", default_stale_after)
        async with self._timed() as conn:
            return len(await conn.fetch(self._sql.reap_stale, older_than))

    async def prune(
        self, done: timedelta | None, failed: timedelta | None, cursor: int | None = None, *, chunk: int = 1000
    ) -> tuple[int | None, int]:
        """Delete one chunk of jobs that finished longer ago than `done` (DONE) or `failed` (FAILED, CANCELLED).

        None keeps them for ever. Returns where to go on (None: there is nothing further) and how many were deleted.
        """
        async with self._timed() as conn:
            found = await conn.fetchrow(self._sql.prune, done, failed, cursor, chunk)
        assert found is not None
        return found[0], found[1]

    # Completion in a transaction

    def complete(self, job: Job, *, result: Any = None) -> AbstractAsyncContextManager[Connection]:
        """Yield a connection in a transaction whose last act is to make the job DONE; see JobStore.complete."""
        return completing(self, self._sql, job, self._encoded_result(result), timeout=self._timeout)

    async def complete_on(self, conn: Any, job: Job, *, result: Any = None) -> None:
        """Make the job DONE in the transaction of a connection of the caller's; see JobStore.complete_on."""
        encoded = self._encoded_result(result)
        callers = await lent_in_transaction(conn, strict=True, what=f"Job {job.id} was completed")
        await complete_on(callers, self._sql, job, encoded)

    async def was_completed(self, job: Job) -> bool:
        """Return whether this claim of the job ended as DONE; see JobStore.was_completed."""
        return await was_completed(self, self._sql, job)

    def _encoded_result(self, result: Any) -> str | None:
        return encode_clean(result, max_bytes=self._max_payload_bytes)


def _named_by_environment() -> str:
    if (found := from_environment()) is None:
        raise ConfigurationError(
            "PgJobStore needs to know where PostgreSQL is: pass dsn=, pool= or connect=, or set "
            f"{' or '.join(VARIABLES)} to {SHAPE}, or libpq's PGHOST, PGDATABASE or PGSERVICE"
        )
    return found.dsn
