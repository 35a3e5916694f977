"""The verbs of JobStore that wait for jobs to end."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Literal, TypeVar, overload

from pqlite.errors import ConfigurationError
from pqlite.job import JobId, JobOutcome
from pqlite.store.awaiting import Ended, Poller, Watcher, durations, outcome_of
from pqlite.store.validation import checked_id

R = TypeVar("R")


class WaitVerbs:
    """The verbs of JobStore that wait for jobs to end, over the store's Watcher."""

    _watcher: Watcher | Poller

    @abstractmethod
    def _see_usable(self) -> None:
        """See JobStore."""

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
        """Return how a job has ended, when it has: DONE, FAILED or CANCELLED. A retry or a snooze is not the end.

            job_id = await store.enqueue(resize.new("a.png", width=80))
            thumbnail = (await store.wait_for(job_id)).result       # what resize is annotated to return

        If the job was made by `handler.new(...)`, the result is read from JSON as the handler's return annotation says;
        otherwise it is the JSON value. `handler.job_id(number)` gives an id from elsewhere (a URL) its type.

        A waiting caller holds no connection. If a worker of the same store ends the job, the caller is told at once.
        Otherwise the store polls, for all waiting callers together: at first often, then at intervals of a quarter of
        the time waited so far, up to `poll_interval`. It goes on waiting while the database is away. If the call is
        cancelled, the job goes on.

        Args:
            timeout: how long to wait, in seconds or as a timedelta; 0: ask once; None: for ever. The job goes on after
                a timeout.
            poll_interval: the longest pause between two polls.
            raise_on_failure: False returns the outcome also of a job that failed or was cancelled.

        Raises:
            JobFailed: it has ended as FAILED or CANCELLED.
            JobTimeoutError: it has not ended in time.
            JobNotFound: there is no such job: its transaction has not been committed, or it was deleted after its end
                (at once, where the worker has `retain_done=timedelta(0)`).
            UnexpectedResult: the result does not fit the annotation. ConfigurationError: values of the annotated type
                cannot be read from JSON.
        """
        longest, most = durations(timeout, poll_interval)
        self._see_usable()
        ended = await self._watcher.wait(checked_id(job_id), longest, most)
        return outcome_of(job_id, ended, raise_on_failure=raise_on_failure)

    def look_again(self, job_ids: Iterable[int]) -> None:
        """Ask at once for the status of these jobs if a caller of `wait_for` waits for one of them."""
        self._watcher.look_again(job_ids)

    @overload
    async def wait_for_all(
        self,
        job_ids: Iterable[JobId[R]],
        *,
        timeout: float | timedelta | None = 30.0,
        poll_interval: float | timedelta = 1.0,
        raise_on_failure: Literal[True] = True,
    ) -> list[JobOutcome[R]]: ...

    @overload
    async def wait_for_all(
        self,
        job_ids: Iterable[int],
        *,
        timeout: float | timedelta | None = 30.0,
        poll_interval: float | timedelta = 1.0,
        raise_on_failure: bool = True,
    ) -> list[JobOutcome[Any]]: ...

    async def wait_for_all(
        self,
        job_ids: Iterable[int],
        *,
        timeout: float | timedelta | None = 30.0,
        poll_interval: float | timedelta = 1.0,
        raise_on_failure: bool = True,
    ) -> list[JobOutcome[Any]]:
        """Wait until all jobs have ended and return their outcomes, in the order of `job_ids`.

        The arguments are those of `wait_for`; `timeout` is for all of them together. No job at all is an empty list.

        Raises: as `wait_for`, for the first job that fails or is not found; the other jobs go on.
        """
        ids = list(job_ids)
        outcomes: dict[int, JobOutcome[Any]] = {}
        async with aclosing(self._completed(ids, timeout, poll_interval, raise_on_failure)) as completed:
            async for outcome in completed:
                outcomes[outcome.id] = outcome
        return [outcomes[int(job_id)] for job_id in ids]

    @overload
    async def wait_for_any(
        self,
        job_ids: Iterable[JobId[R]],
        *,
        timeout: float | timedelta | None = 30.0,
        poll_interval: float | timedelta = 1.0,
        raise_on_failure: Literal[True] = True,
    ) -> JobOutcome[R]: ...

    @overload
    async def wait_for_any(
        self,
        job_ids: Iterable[int],
        *,
        timeout: float | timedelta | None = 30.0,
        poll_interval: float | timedelta = 1.0,
        raise_on_failure: bool = True,
    ) -> JobOutcome[Any]: ...

    async def wait_for_any(
        self,
        job_ids: Iterable[int],
        *,
        timeout: float | timedelta | None = 30.0,
        poll_interval: float | timedelta = 1.0,
        raise_on_failure: bool = True,
    ) -> JobOutcome[Any]:
        """Wait until one of the jobs has ended and return its outcome; the other jobs go on.

        The arguments are those of `wait_for`.

        Raises: as `wait_for`, and ConfigurationError if `job_ids` is empty.
        """
        async with aclosing(self._completed(job_ids, timeout, poll_interval, raise_on_failure)) as completed:
            async for outcome in completed:
                return outcome
        raise ConfigurationError("wait_for_any needs the id of at least one job")

    @overload
    def as_completed(
        self,
        job_ids: Iterable[JobId[R]],
        *,
        timeout: float | timedelta | None = 30.0,
        poll_interval: float | timedelta = 1.0,
        raise_on_failure: Literal[True] = True,
    ) -> AsyncIterator[JobOutcome[R]]: ...

    @overload
    def as_completed(
        self,
        job_ids: Iterable[int],
        *,
        timeout: float | timedelta | None = 30.0,
        poll_interval: float | timedelta = 1.0,
        raise_on_failure: bool = True,
    ) -> AsyncIterator[JobOutcome[Any]]: ...

    async def as_completed(
        self,
        job_ids: Iterable[int],
        *,
        timeout: float | timedelta | None = 30.0,
        poll_interval: float | timedelta = 1.0,
        raise_on_failure: bool = True,
    ) -> AsyncIterator[JobOutcome[Any]]:
        """Yield the outcomes of the jobs as they end, each once. All of them wait together: 2,000 jobs cost one poll.

            async for outcome in store.as_completed(ids, timeout=60):
                print(outcome.id, outcome.result)

        The arguments are those of `wait_for`; `timeout` is for all of them together. If the loop is left early, the
        other jobs go on.

        Raises: as `wait_for`, for the first job that fails or is not found.
        """
        async with aclosing(self._completed(job_ids, timeout, poll_interval, raise_on_failure)) as completed:
            async for outcome in completed:
                yield outcome

    async def _completed(
        self,
        job_ids: Iterable[int],
        timeout: float | timedelta | None,
        poll_interval: float | timedelta,
        raise_on_failure: bool,
    ) -> AsyncGenerator[JobOutcome[Any], None]:
        longest, most = durations(timeout, poll_interval)
        self._see_usable()
        ended: asyncio.Queue[asyncio.Task[Ended]] = asyncio.Queue()
        waiting: dict[asyncio.Task[Ended], int] = {}
        for job_id in {checked_id(job_id): job_id for job_id in job_ids}.values():
            waiting[asyncio.create_task(self._watcher.wait(job_id, longest, most))] = job_id
        for task in waiting:
            task.add_done_callback(ended.put_nowait)
        try:
            for _ in range(len(waiting)):
                task = await ended.get()
                yield outcome_of(waiting[task], task.result(), raise_on_failure=raise_on_failure)
        finally:
            for task in waiting:
                task.cancel()
            if waiting:
                await asyncio.gather(*waiting, return_exceptions=True)
