"""Turns many jobs into statements: in chunks, of which one is encoded while the server writes another.

(Over 300 lines because the order of the chunks, which prevents deadlocks, is best read in one place.)
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from pqlite.errors import DedupeKeyBusy, HeldByThisJob, InvalidJob
from pqlite.job import Enqueued, EnqueuedBehindCancelled, JobId, NewJob, NewJobs, TypedJob, current_job, unknown_names
from pqlite.store.columns import KEY, PAYLOAD, arguments
from pqlite.store.deadlines import Timed
from pqlite.store.statements import Statements
from pqlite.store.validation import Row, row
from pqlite.store.writer import Answer

if TYPE_CHECKING:
    from pqlite.store.connections import Lent

logger = logging.getLogger(__name__)

CHUNK = 2000
KEYED_CHUNK = 1000
CHUNK_CHARACTERS = 8_000_000
"""The maximum size of the payloads in one statement, unless a single one is longer."""
SLICE = 200
"""How many rows are checked before other tasks get their turn: this takes less than a millisecond."""


IdTypes: TypeAlias = dict[int, type[JobId[Any]]]


class Chunk(NamedTuple):
    """Rows for one statement: their positions in the batch, and the statement's arguments."""

    positions: Sequence[int]
    arguments: list[Any]
    keyed: bool


class Batch(NamedTuple):
    """The jobs of one `enqueue_many`: how many, whether one statement suffices, the chunks, and the id types of jobs
    made by handlers (complete once all chunks were taken).
    """

    total: int
    single: bool
    chunks: AsyncGenerator[Chunk, None]
    id_types: IdTypes


async def batch_of(jobs: NewJobs, max_payload_bytes: int) -> Batch:
    """Return jobs as a batch.

    An iterable is read to its end and checked here, because a slow generator must not keep a transaction open. A long
    list is checked chunk by chunk while `Batch.chunks` is iterated, which raises the same errors.

    Raises:
        InvalidJob: one of them is not a valid job; the message names its position.
    """
    id_types: IdTypes = {}
    if isinstance(jobs, (list, tuple)) and len(jobs) > CHUNK:
        return Batch(len(jobs), False, _chunks(tuple(jobs), max_payload_bytes, id_types), id_types)
    chunks = [chunk async for chunk in _chunks(jobs, max_payload_bytes, id_types)]
    return Batch(sum(len(chunk.positions) for chunk in chunks), len(chunks) <= 1, _each(chunks), id_types)


async def enqueue_batch(
    conn: Timed | Lent,
    sql: Statements,
    batch: Batch,
    progress: Callable[[int, int], None] | None = None,
    key_wait: timedelta | None = None,
    free_key: Callable[[Sequence[str]], Awaitable[None]] | None = None,
) -> list[Enqueued[int]]:
    """Insert a batch in the connection's transaction; return one verdict each, in the order given.

    Args:
        progress: called after each chunk with the number of jobs written so far and the total.
        key_wait: how long to wait for a key that another transaction holds; None: the session's lock_timeout.
        free_key: called with the keys of a chunk before it is sent; see completion.free_key.

    Raises:
        InvalidJob: one of them is not a valid job; the transaction has to be rolled back.
        DedupeKeyBusy: a transaction held one of the keys for longer than `key_wait`.
        HeldByThisJob: one of the keys is held by the job whose handler makes this call; the transaction has to be
            rolled back.
    """

    async def locked_by(job_id: int) -> str | None:
        found = await conn.fetch(sql.holder, job_id)
        return found[0][0] if found else None

    verdicts: list[Enqueued[int] | None] = [None] * batch.total
    written = 0
    async with aclosing(batch.chunks) as chunks, _one_ahead(chunks) as following:
        while (chunk := await following()) is not None:
            if chunk.keyed:
                if free_key is not None:
                    await free_key(chunk.arguments[KEY])
                for position, answer in await _insert_keyed(conn, sql, chunk, key_wait):
                    if not answer.inserted and await holds_own_key(chunk.arguments[KEY], answer.id, locked_by):
                        raise HeldByThisJob(own_key(), answer.id)
                    verdicts[position] = verdict_on(
                        position, answer.id, answer.inserted, batch.id_types, cancelling=answer.cancelling
                    )
            else:
                ids = (await conn.fetch(sql.enqueue_keyless, *chunk.arguments))[0][0]
                for position, job_id in zip(chunk.positions, ids, strict=True):
                    verdicts[position] = verdict_on(position, job_id, True, batch.id_types)
            written += len(chunk.positions)
            if progress is not None:
                progress(written, batch.total)
    return cast("list[Enqueued[int]]", verdicts)


def own_key() -> str:
    """Return the dedupe key of the job whose handler makes this call."""
    job = current_job.get()
    return "" if job is None else job.dedupe_key or ""


async def holds_own_key(
    keys: Collection[str | None], holder: int, locked_by: Callable[[int], Awaitable[str | None]]
) -> bool:
    """Return whether the job that holds one of the keys is the job whose handler makes this call; `locked_by` returns
    that column of a job.
    """
    job = current_job.get()
    if job is None or job.id != holder or job.dedupe_key is None or job.dedupe_key not in keys:
        return False
    # Another database may have a job with the same id and key, but not with the same locked_by.
    return await locked_by(holder) == job.locked_by


def tell_cancelling(verdicts: Sequence[Enqueued[int]]) -> None:
    """Log a warning about jobs that were not enqueued because the holder of their key was asked to cancel."""
    if behind := [verdict.id for verdict in verdicts if verdict.cancelling]:
        logger.warning(
            "%s of %s jobs were not enqueued: the active jobs with their dedupe keys were asked to cancel and still "
            "run (the first is job %s). Wait for their end and enqueue again.",
            len(behind),
            len(verdicts),
            behind[0],
        )


def verdict_on(
    position: int, job_id: int, inserted: bool, id_types: IdTypes, *, cancelling: bool = False
) -> Enqueued[int]:
    """Return the verdict for the job at a position of the batch."""
    if id_types and (id_type := id_types.get(position)) is not None:
        job_id = id_type(job_id)
    return EnqueuedBehindCancelled(job_id, inserted) if cancelling else Enqueued(job_id, inserted)


async def _insert_keyed(
    conn: Timed | Lent, sql: Statements, chunk: Chunk, key_wait: timedelta | None
) -> Iterable[tuple[int, Answer]]:
    rows = await conn.fetch(sql.enqueue_many, *chunk.arguments, key_wait)
    # With a wait, rows whose key is held come back without an id.
    if any(job_id is None for _, job_id, *_ in rows):
        raise DedupeKeyBusy("A transaction that has not ended holds one of the dedupe keys; nothing was enqueued.")
    return ((chunk.positions[ordinal - 1], Answer(*answer)) for ordinal, *answer in rows)


# Rows and columns


def checked_row(position: int, job: NewJob | Mapping[str, Any], max_payload_bytes: int, id_types: IdTypes) -> Row:
    """Return the row of the job at a position of a batch; note the type of its id if a handler made it.

    Raises:
        InvalidJob: it is not a valid job; the message names its position.
    """
    if isinstance(job, TypedJob):
        id_types[position] = job.id_type
    if not isinstance(job, (NewJob, Mapping)):
        raise InvalidJob(
            f"job {position}: a job is a NewJob, such as handler.new(...) returns, or its fields by name, not {job!r}"
        )
    try:
        return row(job if isinstance(job, NewJob) else NewJob(**job), max_payload_bytes)
    except InvalidJob as error:
        raise type(error)(f"job {position}: {error}") from None
    except TypeError as error:
        known = NewJob.__dataclass_fields__
        if isinstance(job, Mapping) and not job.keys() <= known.keys():
            raise InvalidJob(f"job {position}: a job has no field {unknown_names(job, known)}") from None
        raise InvalidJob(f"job {position}: {error}") from None


async def _slices(jobs: NewJobs, max_payload_bytes: int, id_types: IdTypes) -> AsyncGenerator[list[Row], None]:
    """Yield rows, each checked when it is read: a generator may change its jobs afterwards."""
    if isinstance(jobs, AsyncIterable):
        rows: list[Row] = []
        position = 0
        async for job in jobs:
            rows.append(checked_row(position, job, max_payload_bytes, id_types))
            position += 1
            if len(rows) == SLICE:
                yield rows
                rows = []
        yield rows
    else:
        each = (checked_row(position, job, max_payload_bytes, id_types) for position, job in enumerate(jobs))
        while rows := list(islice(each, SLICE)):
            yield rows


async def _chunks(jobs: NewJobs, max_payload_bytes: int, id_types: IdTypes) -> AsyncGenerator[Chunk, None]:
    """Yield the rows without keys in their order, then the others in the order of their keys.

    Because all chunks follow that order, two callers with the same keys cannot deadlock.
    """
    keyless: list[tuple[int, Row]] = []
    keyed: list[tuple[int, Row]] = []
    runs: list[deque[tuple[int, Row]]] = []
    position = 0
    async with aclosing(_slices(jobs, max_payload_bytes, id_types)) as slices:
        async for rows in slices:
            for values in rows:
                (keyless if values[KEY] is None else keyed).append((position, values))
                position += 1
            if len(keyless) >= CHUNK:
                for chunk in _cut(keyless, keyed=False):
                    yield chunk
                keyless = []
            if len(keyed) >= KEYED_CHUNK:
                runs.append(deque(sorted(keyed, key=_by_key)))
                keyed = []
            await asyncio.sleep(0)
    for chunk in _cut(keyless, keyed=False):
        yield chunk
    # Merged instead of sorted as a whole, which with a million keys would block the event loop for seconds. The rows
    # are released one by one for the same reason.
    runs.append(deque(sorted(keyed, key=_by_key)))
    ordered = heapq.merge(*map(_emptied, runs), key=_by_key)
    while some := list(islice(ordered, KEYED_CHUNK)):
        for chunk in _cut(some, keyed=True):
            yield chunk
        await asyncio.sleep(0)


async def _each(chunks: list[Chunk]) -> AsyncGenerator[Chunk, None]:
    for chunk in chunks:
        yield chunk


def _emptied(run: deque[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
    while run:
        yield run.popleft()


def _by_key(row: tuple[int, Row]) -> str:
    key: str = row[1][KEY]
    return key


def _cut(rows: list[tuple[int, Row]], *, keyed: bool) -> Iterator[Chunk]:
    """Yield rows as one chunk, or as several if their payloads are long."""
    if len(rows) > 1 and sum(len(values[PAYLOAD]) for _, values in rows) > CHUNK_CHARACTERS:
        yield from _cut(rows[: len(rows) // 2], keyed=keyed)
        yield from _cut(rows[len(rows) // 2 :], keyed=keyed)
    elif rows:
        positions, all_values = zip(*rows, strict=True)
        yield Chunk(positions, arguments(all_values, keyed=keyed), keyed)


@asynccontextmanager
async def _one_ahead(chunks: AsyncIterator[Chunk]) -> AsyncIterator[Callable[[], Any]]:
    """Yield a function that returns the next chunk, None after the last, and prepares the following one meanwhile."""

    async def following() -> Chunk | None:
        return await anext(chunks, None)

    upcoming = asyncio.ensure_future(following())

    async def take() -> Chunk | None:
        nonlocal upcoming
        if (chunk := await upcoming) is not None:
            upcoming = asyncio.ensure_future(following())
        return chunk

    try:
        yield take
    finally:
        upcoming.cancel()
        await asyncio.wait([upcoming])
        if not upcoming.cancelled():
            upcoming.exception()  # retrieved, so that asyncio does not log it
