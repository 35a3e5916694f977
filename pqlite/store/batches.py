"""Rows to statements: a few that came together, or very many in chunks, encoded while the server writes others."""

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
"""How much payload one statement carries, unless a single one is longer."""
SLICE = 200
"""How many rows are checked at a stretch: less than a millisecond, then others get their turn."""


IdTypes: TypeAlias = dict[int, type[JobId[Any]]]


class Chunk(NamedTuple):
    """Rows for one statement: where in the batch they are, and its arguments."""

    positions: Sequence[int]
    arguments: list[Any]
    keyed: bool


class Batch(NamedTuple):
    """What `enqueue_many` was given: how many jobs, whether one statement does, the chunks, and what ids those jobs get
    that handlers have made (complete when the chunks are drawn).
    """

    total: int
    single: bool
    chunks: AsyncGenerator[Chunk, None]
    id_types: IdTypes


async def batch_of(jobs: NewJobs, max_payload_bytes: int) -> Batch:
    """Return jobs as a batch.

    What has to be iterated is drawn and checked here: a slow generator must not hold a transaction open, and a job that
    is changed after it was drawn has been enqueued as it was. A long list is there already: it is checked chunk by
    chunk when `Batch.chunks` is iterated, which raises the same.

    Raises:
        InvalidJob: one of them cannot be a job; the message names its position.
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
        progress: called with how many are written, and the total, after each chunk.
        key_wait: how long to wait for a key that another transaction holds; None: as long as the session says.
        free_key: called with the keys of a chunk before it is sent; see completion.free_key.

    Raises:
        InvalidJob: one of them cannot be a job; the transaction has to be rolled back.
        DedupeKeyBusy: a transaction holds one of the keys for longer than `key_wait`.
        HeldByThisJob: one of the keys is that of the job whose handler this is; the transaction has to be rolled back.
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
    """Return the dedupe key of the job whose handler calls this."""
    job = current_job.get()
    return "" if job is None else job.dedupe_key or ""


async def holds_own_key(
    keys: Collection[str | None], holder: int, locked_by: Callable[[int], Awaitable[str | None]]
) -> bool:
    """Return whether the holder of one of the keys is the job whose handler calls this; `locked_by` returns which
    claim holds a job.
    """
    job = current_job.get()
    if job is None or job.id != holder or job.dedupe_key is None or job.dedupe_key not in keys:
        return False
    # Another database may have a job with that id and that key; but no other claim has this holder.
    return await locked_by(holder) == job.locked_by


def tell_cancelling(verdicts: Sequence[Enqueued[int]]) -> None:
    """Log which jobs of a batch are behind one that was asked to cancel: such a verdict must not be overlooked."""
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
    """Return the verdict on the job at a position of the batch."""
    if id_types and (id_type := id_types.get(position)) is not None:
        job_id = id_type(job_id)
    return EnqueuedBehindCancelled(job_id, inserted) if cancelling else Enqueued(job_id, inserted)


async def _insert_keyed(
    conn: Timed | Lent, sql: Statements, chunk: Chunk, key_wait: timedelta | None
) -> Iterable[tuple[int, Answer]]:
    rows = await conn.fetch(sql.enqueue_many, *chunk.arguments, key_wait)
    # With a wait, rows whose key is held come back without an id; a lock of the whole table is waited for.
    if any(job_id is None for _, job_id, *_ in rows):
        raise DedupeKeyBusy("A transaction that has not ended holds one of the dedupe keys; nothing was enqueued.")
    return ((chunk.positions[ordinal - 1], Answer(*answer)) for ordinal, *answer in rows)


# Rows and columns


def checked_row(position: int, job: NewJob | Mapping[str, Any], max_payload_bytes: int, id_types: IdTypes) -> Row:
    """Return the row of the job at a position of a batch; note the type of its id if a handler has made it.

    Raises:
        InvalidJob: it cannot be a job; the message names its position.
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
    """Yield rows as they come, each checked at once: who yields jobs may change them afterwards."""
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

    All chunks follow that one order: two callers with the same keys cannot deadlock, whatever their sizes.
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
    # Merged, and not sorted as a whole: with a million keys that would block the loop for seconds. And let go of one by
    # one, which as a whole takes a while as well.
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
    """Yield rows as one chunk, as several if their payloads are long."""
    if len(rows) > 1 and sum(len(values[PAYLOAD]) for _, values in rows) > CHUNK_CHARACTERS:
        yield from _cut(rows[: len(rows) // 2], keyed=keyed)
        yield from _cut(rows[len(rows) // 2 :], keyed=keyed)
    elif rows:
        positions, all_values = zip(*rows, strict=True)
        yield Chunk(positions, arguments(all_values, keyed=keyed), keyed)


@asynccontextmanager
async def _one_ahead(chunks: AsyncIterator[Chunk]) -> AsyncIterator[Callable[[], Any]]:
    """Yield a function that returns the next chunk, None after the last; while it is used the one after it is made."""

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
            upcoming.exception()  # looked at: what ended the block is the news
