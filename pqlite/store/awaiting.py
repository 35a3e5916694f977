"""Waits for jobs to end: polls for all waiting callers together, at first often, then less and less.

Pure asyncio, without SQL or connections.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from datetime import timedelta
from typing import Any, NamedTuple

from pqlite.backoff import seconds
from pqlite.codec import decode
from pqlite.errors import ConfigurationError, JobFailed, JobNotFound, JobTimeoutError
from pqlite.job import JobId, JobOutcome, JobStatus

FIRST_PAUSE = 0.01
PACE = 4.0
"""The pause before the next poll is the time waited so far, divided by this."""
TOGETHER = 0.005
"""Polls that are due within this many seconds of each other are one."""
LOOK_SECONDS = 10.0
ONE_LOOK_SECONDS = 1.0
"""A caller with a timeout of 0 gets one poll, if it takes no longer than this."""
MOST_IDS = 1000


class Ended(NamedTuple):
    """A job that has ended, or (status None) an id that no job has. `result` and `errors` are JSON text, so that JSON
    that cannot be read is an error only for the caller that waits for that job.
    """

    id: int
    status: JobStatus | None
    result: str | None
    last_error: str | None
    errors: str | None


Look = Callable[[list[int]], Awaitable[Sequence[Ended]]]
"""Returns the jobs that have ended, and the ids that no job has."""


class Watcher:
    """Polls the jobs that callers wait for, in a task of its own that runs while there are waiting callers.

    Args:
        look: the poll; its errors are raised in all callers that wait for one of those jobs.
        passes: returns whether an error is temporary, so that polling goes on.
    """

    def __init__(self, look: Look, passes: Callable[[Exception], bool]) -> None:
        self._look = look
        self._passes = passes
        self._waiters: set[_Waiter] = set()
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        """Set when there is something to do for the task. It belongs to the task's event loop."""

    async def wait(self, job_id: int, timeout: float | None, most: float) -> Ended:
        """Wait until a job has ended and return how; poll at least every `most` seconds.

        Raises:
            JobTimeoutError: it has not ended within `timeout` seconds.
            Exception: what `look` raised.
        """
        waiter = _Waiter(job_id, most)
        self._waiters.add(waiter)
        self._news.set()
        if self._task is None or self._task.done():
            self._news = asyncio.Event()  # the last task may have had another event loop
            # In an empty context: the context variables of the first caller must not reach the others.
            self._task = Context().run(asyncio.create_task, self._serve(), name="pqlite wait_for")
        try:
            await asyncio.wait([waiter.answer], timeout=timeout)
            if not waiter.answer.done() and not waiter.looked.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(ONE_LOOK_SECONDS):
                        await waiter.looked.wait()
            if waiter.answer.done():
                return waiter.answer.result()
            raise JobTimeoutError(f"Job {int(job_id)} has not ended within {timeout:g} s.") from waiter.trouble
        finally:
            waiter.answer.cancel()  # has an effect only if it is pending: asyncio would log an error set later
            self._waiters.discard(waiter)
            self._news.set()

    def look_again(self, job_ids: Iterable[int]) -> None:
        """Poll these jobs at once, if a caller waits for one of them."""
        if self._waiters:
            found = frozenset(job_ids)
            for waiter in self._waiters:
                if waiter.job_id in found:
                    waiter.due = 0.0
                    self._news.set()

    def abort(self, error: Exception) -> None:
        """Stop polling, and raise the error in all waiting callers."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            waiter.fail(error)

    async def _serve(self) -> None:
        while self._waiters:
            now = time.monotonic()
            due = [waiter for waiter in self._waiters if waiter.due <= now + TOGETHER]
            if due:
                await self._see(due, now)
            else:
                self._news.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(waiter.due for waiter in self._waiters) - now):
                        await self._news.wait()

    async def _see(self, due: Sequence[_Waiter], now: float) -> None:
        for waiter in due:
            waiter.due = now + waiter.pause(now)  # before the poll, so that `look_again` during it is not lost
        ids = sorted({waiter.job_id for waiter in due})
        found: dict[int, Ended] = {}
        trouble: Exception | None = None
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                for at in range(0, len(ids), MOST_IDS):
                    found |= {ended.id: ended for ended in await self._look(ids[at : at + MOST_IDS])}
        except Exception as error:
            trouble = error
        for waiter in due:
            waiter.trouble = trouble
            waiter.looked.set()
            if (ended := found.get(waiter.job_id)) is not None:
                waiter.answered(ended)
            elif trouble is not None and not self._passes(trouble):
                waiter.fail(trouble)


class Poller:
    """Waits without a task of its own: each caller polls, at least every `most` seconds."""

    def __init__(self, look: Look, *, most: float = math.inf) -> None:
        self._look = look
        self._most = most

    async def wait(self, job_id: int, timeout: float | None, most: float) -> Ended:
        """Wait until a job has ended and return how; see Watcher.wait."""
        since = time.monotonic()
        while True:
            for ended in await self._look([int(job_id)]):
                return ended
            waited = time.monotonic() - since
            if timeout is not None and waited >= timeout:
                raise JobTimeoutError(f"Job {int(job_id)} has not ended within {timeout:g} s.")
            left = most if timeout is None else timeout - waited
            await asyncio.sleep(min(pause_after(waited, most), left, self._most))

    def look_again(self, job_ids: Iterable[int]) -> None:
        """Do nothing: each caller polls often."""

    def abort(self, error: Exception) -> None:
        """Do nothing: each caller's next poll finds the store closed."""


class _Waiter:
    def __init__(self, job_id: int, most: float) -> None:
        self.job_id = int(job_id)
        self.answer: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self.looked = asyncio.Event()
        self.due = 0.0
        self.trouble: Exception | None = None
        self._most = most
        self._since = time.monotonic()

    def pause(self, now: float) -> float:
        return pause_after(now - self._since, self._most)

    def answered(self, ended: Ended) -> None:
        if not self.answer.done():
            self.answer.set_result(ended)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


def pause_after(waited: float, most: float) -> float:
    """Return how long to pause before the next poll after having waited for so long."""
    return min(max(waited / PACE, FIRST_PAUSE), most)


def durations(timeout: float | timedelta | None, poll_interval: float | timedelta) -> tuple[float | None, float]:
    """Return how long to wait, and the longest pause between two polls, in seconds.

    Raises:
        ConfigurationError: one of them is not a duration, or the pause is 0.
    """
    try:
        most = seconds(poll_interval)
        longest = None if timeout is None else seconds(timeout)
    except (TypeError, ValueError):
        most = longest = 0.0
    if most <= 0.0:
        raise ConfigurationError(
            f"timeout and poll_interval are seconds or timedeltas, not {timeout!r} and {poll_interval!r}; the interval "
            "is more than 0"
        )
    return longest, most


def outcome_of(job_id: int, ended: Ended, *, raise_on_failure: bool) -> JobOutcome[Any]:
    """Return the outcome of a job that has ended.

    Raises:
        JobNotFound: it is gone. JobFailed: it did not end as DONE.
        UnexpectedResult, ConfigurationError: see JobId.read.
    """
    if ended.status is None:
        raise JobNotFound(
            f"There is no job {int(job_id)}: it was deleted after its end, or its enqueue is not committed yet."
        )
    result, errors = decode(ended.result), decode(ended.errors)
    if ended.status is JobStatus.DONE and isinstance(job_id, JobId):
        result = job_id.read(result)
    elif ended.status is not JobStatus.DONE and raise_on_failure:
        raise JobFailed(int(job_id), ended.status, ended.last_error, errors)
    return JobOutcome(int(job_id), ended.status, result, ended.last_error, errors)
