"""Operations: list jobs, change many of them, and explain why one does not run."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import asyncpg
from pydantic_core import from_json

from pqlite.errors import InvalidJob, JobNotFound, StoreTimeout
from pqlite.operations.answers import Changed, Count, Page, Reason
from pqlite.operations.doctor import Finding, examine
from pqlite.operations.filters import JobFilter
from pqlite.operations.statements import for_schema
from pqlite.operations.stats import CAP, Stats, stats_from_json
from pqlite.operations.workers import WorkerRow, worker_from_row
from pqlite.settings import positive, timeout_seconds
from pqlite.store.postgres import PgJobStore
from pqlite.store.rows import job_from_row
from pqlite.store.validation import checked_id, name

if TYPE_CHECKING:
    from pqlite.store.connecting import Connection

Action: TypeAlias = Literal["retry", "cancel", "delete", "run_now", "set_queue", "set_priority"]
ACTIONS: tuple[Action, ...] = get_args(Action)
CHUNK = 500
MOST_PER_PAGE = 1000
SEARCH_SECONDS = 1.0
RACES = 5

_Place: TypeAlias = tuple[datetime | None, int]


class Operations:
    """What an operator does with the jobs of a store, which must be started and stays the caller's.

    Every statement looks at a limited number of jobs and has a `timeout`. A cancelled call leaves the chunks that are
    done; each is a transaction of its own.

        operations = Operations(store, actor="ada")
        failed = JobFilter(status="FAILED", job_type="send_invoice")
        print(await operations.count(failed))
        await operations.retry(failed)

    Args:
        store: whose jobs.
        actor: the person or program that acts, for `pqlite.audit`.
        timeout: seconds, or a timedelta, for each statement.
    """

    def __init__(self, store: PgJobStore, *, actor: str | None = None, timeout: float | timedelta = 5.0) -> None:
        self._store = store
        self._sql = for_schema(store.schema)
        self._actor = actor
        self._timeout = timeout_seconds("timeout", timeout)

    # Look

    async def list_jobs(self, filter: JobFilter | None = None, *, cursor: str | None = None, limit: int = 50) -> Page:
        """Return one page of the jobs that match: by their end, latest first, if the filter says FAILED or CANCELLED
        (or both) as status; otherwise from the highest id down.

        The search ends after about a second. Then a page may have fewer jobs than `limit`, also none, and a cursor that
        goes on: so it is if few of millions of jobs match and no index leads to them.

        Args:
            filter: which jobs; None: all.
            cursor: of the page before, for the same filter.
            limit: how many jobs at most, 1 to 1,000.

        Raises:
            InvalidJob: the cursor or the limit cannot be used.
            StoreTimeout: a statement took longer than the timeout.
        """
        if not 1 <= limit <= MOST_PER_PAGE:
            raise InvalidJob(f"limit must be 1 to {MOST_PER_PAGE:,}, not {limit}")
        place = None if cursor is None else _place(cursor)
        ids: list[int] = []
        ends = time.monotonic() + SEARCH_SECONDS
        async with self._limited() as conn:
            while True:
                found, place = await self._find(conn, filter or JobFilter(), limit - len(ids), place)
                ids += found
                if place is None or len(ids) >= limit or time.monotonic() > ends:
                    break
            jobs = [job_from_row(row) for row in await conn.fetch(self._sql.jobs, ids)]
        return Page(jobs, None if place is None else _cursor(place))

    async def count(self, filter: JobFilter | None = None, *, cap: int = 10_000) -> Count:
        """Count the jobs that match, up to `cap`, and for about a second: what a change of them would affect.

        Raises:
            StoreTimeout: a statement took longer than the timeout.
        """
        number, place = 0, None
        ends = time.monotonic() + SEARCH_SECONDS
        async with self._limited() as conn:
            while True:
                room = min(positive("cap", cap) - number, 10_000)
                found, place = await self._find(conn, filter or JobFilter(), room, place)
                number += len(found)
                if place is None:
                    return Count(number, False)
                if number >= cap or time.monotonic() > ends:
                    return Count(number, True)

    async def explain(self, job_id: int) -> list[Reason]:
        """Return why a job does not run, the reason to remove first at the head. The codes:

        DONE, FAILED, CANCELLED; RUNNING, and then perhaps WORKER_UNKNOWN, WORKER_DEAD, CANCEL_REQUESTED; BLOCKED or
        FUTURE; EXPIRES; PAUSED; NO_WORKER, NO_WORKER_FOR_QUEUE, NO_WORKER_FOR_TYPE or NO_WORKER_FOR_VERSION; SUSPECT;
        LOCKED; BEHIND (other jobs come first); DUE. DUE alone means that the next free worker starts it.

        Raises:
            JobNotFound: there is none with that id.
            StoreTimeout: the statement took longer than the timeout.
        """
        async with self._limited() as conn:
            rows = await conn.fetch(self._sql.explain, checked_id(job_id))
        if not rows:
            raise JobNotFound(f"There is no job {job_id}.")
        return [Reason(row[0], row[1]) for row in rows]

    async def stats(self) -> Stats:
        """Return what waits, runs and has lately ended. Counts end at 10,000.

        Raises:
            StoreTimeout: the statement took longer than the timeout.
        """
        async with self._limited() as conn:
            return stats_from_json(from_json(await conn.fetchval(self._sql.stats, CAP)))

    async def workers(self) -> list[WorkerRow]:
        """Return the registered workers, by label; 1,000 at most.

        Raises:
            StoreTimeout: the statement took longer than the timeout.
        """
        async with self._limited() as conn:
            return [worker_from_row(row) for row in await conn.fetch(self._sql.workers)]

    async def doctor(self, *, patience: timedelta = timedelta(minutes=5)) -> list[Finding]:
        """Return what is wrong with the queue and its database, and what to do, errors first; nothing if all is well.

        Args:
            patience: the age from which on open transactions, due jobs and late schedules are findings.

        Raises:
            StoreTimeout: the server did not answer in time.
        """
        return await examine(self._store, self._limited, self._sql, patience)

    # Change

    async def retry(self, filter: JobFilter, **options: Any) -> Changed:
        """Run ended jobs again, now; not those whose dedupe key a newer job holds. Options and errors: `change`."""
        return await self.change("retry", filter, **options)

    async def cancel(self, filter: JobFilter, **options: Any) -> Changed:
        """Cancel jobs: those that wait at once, those that run through their workers. Options and errors: `change`."""
        return await self.change("cancel", filter, **options)

    async def delete(self, filter: JobFilter, **options: Any) -> Changed:
        """Delete jobs that have ended. Options and errors: `change`."""
        return await self.change("delete", filter, **options)

    async def run_now(self, filter: JobFilter, **options: Any) -> Changed:
        """Make jobs due that wait for a later time. Options and errors: `change`."""
        return await self.change("run_now", filter, **options)

    async def set_queue(self, filter: JobFilter, queue: str, **options: Any) -> Changed:
        """Move waiting jobs to another queue. Options and errors: `change`."""
        return await self.change("set_queue", filter, value=queue, **options)

    async def set_priority(self, filter: JobFilter, priority: int, **options: Any) -> Changed:
        """Change the priority of waiting jobs. Options and errors: `change`."""
        return await self.change("set_priority", filter, value=priority, **options)

    async def change(
        self,
        action: Action,
        filter: JobFilter,
        *,
        value: str | int | None = None,
        limit: int | None = None,
        progress: Callable[[Changed], None] | None = None,
    ) -> Changed:
        """Do the same to all jobs that match, in chunks of 500, beside running workers.

        Jobs that another transaction has locked at the moment, or in a status to which the action does not apply, are
        counted as matched, not as changed. The act is recorded in `pqlite.audit`, also if it fails halfway.

        Args:
            action: one of ACTIONS.
            filter: which jobs. JobFilter() means all: `count` says first how many that are.
            value: the queue or the priority for `set_queue` and `set_priority`.
            limit: stop after so many matching jobs.
            progress: is called after each chunk.

        Raises:
            InvalidJob: the action or the value is invalid.
            StoreTimeout: a statement took longer than the timeout. Chunks before are done.
        """
        checked = _value(action, value)
        done, place = Changed(0, 0), None
        try:
            while True:
                room = CHUNK if limit is None else min(CHUNK, limit - done.matched)
                if room <= 0:
                    break
                async with self._limited() as conn:
                    ids, place = await self._find(conn, filter, room, place)
                changed = await self._change(ids, action, filter.to_json(), checked)
                done = Changed(done.matched + len(ids), done.changed + changed)
                if progress is not None and ids:
                    progress(done)
                if place is None:
                    break
        finally:
            if done.changed:
                async with self._limited() as conn:
                    await conn.execute(self._sql.audited, self._actor, action, filter.to_json(), checked, done.changed)
        return done

    async def _change(self, ids: list[int], action: Action, filter: str, value: str | None) -> int:
        """Change one chunk; return how many jobs were changed."""
        for tries in range(RACES):
            try:
                async with self._limited() as conn:
                    return int(await conn.fetchval(self._sql.change, ids, action, filter, value))
            except asyncpg.UniqueViolationError:  # a key was taken at this moment: the next try sees by which job
                if tries == RACES - 1:
                    raise
        raise AssertionError

    @asynccontextmanager
    async def _limited(self) -> AsyncIterator[Connection]:
        """Yield a connection in a transaction whose statements end after the timeout."""
        try:
            async with self._store.transaction() as conn:
                await conn.execute(self._sql.limits, str(int(self._timeout * 1000)))
                yield conn
        except asyncpg.QueryCanceledError as error:
            raise StoreTimeout(
                f"A statement took longer than {self._timeout:g} s and was cancelled; a narrower filter is faster.",
                may_have_happened=False,
            ) from error

    async def _find(
        self, conn: Connection, filter: JobFilter, room: int, place: _Place | None
    ) -> tuple[list[int], _Place | None]:
        at, job_id = (None, None) if place is None else place
        row = await conn.fetchrow(self._sql.find, filter.to_json(), room, at, job_id)
        assert row is not None
        return row[0], None if row[2] is None else (row[1], row[2])


def _value(action: Action, value: str | int | None) -> str | None:
    if action not in ACTIONS:
        raise InvalidJob(f"action must be one of {', '.join(ACTIONS)}, not {action!r}")
    match action, value:
        case "set_queue", str():
            return name("queue", value, 200)
        case "set_priority", int() if -(2**31) < value < 2**31:
            return str(value)
        case (("set_queue" | "set_priority"), _):
            raise InvalidJob(f"{action} needs a value, and {value!r} is none")
        case _ if value is not None:
            raise InvalidJob(f"{action} takes no value")
    return None


def _cursor(place: _Place) -> str:
    at, job_id = place
    return f"{job_id}" if at is None else f"{job_id}@{at.isoformat()}"


def _place(cursor: str) -> _Place:
    job_id, _, at = cursor.partition("@")
    try:
        return (datetime.fromisoformat(at) if at else None), int(job_id)
    except ValueError:
        raise InvalidJob(f"{cursor!r} is no cursor of list_jobs") from None
