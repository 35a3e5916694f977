"""Writes rows together that arrive at the same time. Pure asyncio, without SQL or connections."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from typing import Generic, NamedTuple, TypeVar

R = TypeVar("R")
T = TypeVar("T")

Write = Callable[[list[R]], Awaitable[Sequence[T]]]
"""Writes rows, all or none, and returns a result for each, in their order."""

MOST_ROWS = 500
MOST_CHARACTERS = 4_000_000
"""The maximum size of one write, as `size` measures it, unless a single row is larger."""
TERM_SECONDS = 1.0
TURNS_KEPT = 5
"""For how many iterations of the event loop a connection is kept without work: a caller may write its next row."""


class Coalescer(Generic[R, T]):
    """Collects rows while others are being written. A single row is written without delay; many share a statement.

    One writer at a time takes the pending rows. It keeps its connection while there are rows to write, for at most a
    second; then another writer takes over. So other users of the pool get connections, and a write that hangs delays
    only the rows in it.

    Args:
        session: opens a context in which rows can be written.
        is_refusal: returns whether an error means that the database refused one of the rows and wrote nothing. The rows
            are then written one by one, and only the caller of the refused row gets the error. Any other error goes to
            all callers whose rows were in that write, which is not repeated because it may have been committed.
        size: returns the size of a row; a write takes at most MOST_CHARACTERS.
        term: for how many seconds a connection is kept at most while there are rows to write; 0: for one write.
    """

    def __init__(
        self,
        session: Callable[[], AbstractAsyncContextManager[Write[R, T]]],
        is_refusal: Callable[[Exception], bool],
        *,
        size: Callable[[R], int] = lambda _row: 0,
        term: float = TERM_SECONDS,
    ) -> None:
        self._session = session
        self._is_refusal = is_refusal
        self._size = size
        self._term = term
        self._pending: deque[_Item[R, T]] = deque()
        self._writers: set[_Writer[R, T]] = set()
        self._leader: _Writer[R, T] | None = None

    async def write(self, row: R) -> T:
        """Write a row and return its result.

        If the call is cancelled before the row was sent, the row is not written; after that, it may be.

        Raises:
            Exception: what `session` raised, or what the write raised.
        """
        item: _Item[R, T] = _Item(row, asyncio.get_running_loop().create_future())
        self._pending.append(item)
        if self._leader is None:
            self._appoint()
        try:
            return await item.answer
        except asyncio.CancelledError:
            self._stop_the_abandoned()
            raise

    async def idle(self) -> None:
        """Return when nothing is pending and nothing is being written."""
        while self._writers:
            await asyncio.wait([writer.task for writer in self._writers])

    def abort(self, error: Exception) -> None:
        """Stop writing, and raise the error in all waiting callers."""
        for writer in self._writers:
            _fail(writer.batch, error)
            writer.task.cancel()
        _fail(self._pending, error)
        self._pending.clear()
        self._leader = None

    def _appoint(self) -> None:
        writer: _Writer[R, T] = _Writer()
        self._leader = writer
        self._writers.add(writer)
        # In an empty context: the context variables of the first caller (a trace, a request) must not reach the others.
        # By `run`, because a user's task factory may not accept the argument `context`.
        writer.task = Context().run(asyncio.create_task, self._serve(writer), name="pqlite enqueue")

    def _retire(self, writer: _Writer[R, T]) -> None:
        """Let the writer finish its current write, and start another writer for the pending rows."""
        if self._leader is writer:
            self._leader = None
            if not _all_answered(self._pending):
                self._appoint()

    def _stop_the_abandoned(self) -> None:
        """Cancel writers whose callers have all gone: on a connection that hangs they would never end."""
        for writer in self._writers:
            awaited = self._pending if writer.connecting else writer.batch
            if awaited and _all_answered(awaited):
                writer.task.cancel()
                if self._leader is writer:
                    self._leader = None

    async def _serve(self, writer: _Writer[R, T]) -> None:
        try:
            async with self._session() as write:
                writer.connecting = False
                retiring = asyncio.get_running_loop().call_later(self._term, self._retire, writer)
                try:
                    while batch := await self._next(writer):
                        if not await self._write(writer, write, batch):
                            break
                finally:
                    retiring.cancel()
                    self._retire(writer)  # a new caller need not wait until the session is closed
        except Exception as error:
            # Once connected, all callers have their answers: only closing the session has failed.
            if writer.connecting:
                _fail(self._pending, error)
                self._pending.clear()
        finally:
            self._writers.discard(writer)
            self._retire(writer)

    async def _next(self, writer: _Writer[R, T]) -> list[_Item[R, T]]:
        """Return the rows to write next; none, if none is pending or another writer has taken over."""
        batch: list[_Item[R, T]] = []
        length = 0
        for _ in range(TURNS_KEPT):
            while self._leader is writer and self._pending and len(batch) < MOST_ROWS:
                item = self._pending[0]
                if not item.answer.done():  # else its caller was cancelled
                    length += self._size(item.row)
                    if batch and length > MOST_CHARACTERS:
                        break
                    batch.append(item)
                self._pending.popleft()
            if batch or self._leader is not writer:
                break
            await asyncio.sleep(0)
        return batch

    async def _write(self, writer: _Writer[R, T], write: Write[R, T], batch: list[_Item[R, T]]) -> bool:
        """Write rows and answer their callers; return whether the session can be used further."""
        writer.batch = batch
        try:
            error = await _attempt(write, batch)
            if error is not None and len(batch) > 1 and self._is_refusal(error):
                error = await self._write_one_by_one(write, batch)
            if error is not None:
                _fail(batch, error)
            return error is None or self._is_refusal(error)
        finally:
            writer.batch = []
            for item in batch:
                item.answer.cancel()  # only pending if the writer was cancelled: no caller must wait for ever

    async def _write_one_by_one(self, write: Write[R, T], batch: list[_Item[R, T]]) -> Exception | None:
        """Write rows and answer their callers; return the error that ended it early."""
        for item in batch:
            if item.answer.done():
                continue
            error = await _attempt(write, [item])
            if error is not None and not self._is_refusal(error):
                return error
            if error is not None:
                _fail([item], error)
        return None


class _Item(NamedTuple, Generic[R, T]):
    row: R
    answer: asyncio.Future[T]


class _Writer(Generic[R, T]):
    """A task that writes, and what it is doing: connecting, or writing a batch."""

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.connecting = True
        self.batch: list[_Item[R, T]] = []


async def _attempt(write: Write[R, T], items: list[_Item[R, T]]) -> Exception | None:
    """Write rows and answer their callers; return the error if they could not be written."""
    try:
        results = await write([item.row for item in items])
    except Exception as error:
        return error
    for item, result in zip(items, results, strict=True):
        if not item.answer.done():
            item.answer.set_result(result)
    return None


def _all_answered(items: Iterable[_Item[R, T]]) -> bool:
    return all(item.answer.done() for item in items)


def _fail(items: Iterable[_Item[R, T]], error: Exception) -> None:
    for item in items:
        if not item.answer.done():
            item.answer.set_exception(error)
