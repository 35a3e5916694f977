"""Writes outcomes, in batches: while one write is in flight the next batch gathers. Repeats them through outages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice

from pqlite.codec import format_error
from pqlite.events import JobSettled, OutcomeRefused
from pqlite.events.announcer import Announcer
from pqlite.job import Job, JobStatus
from pqlite.outcome import Outcome, Verb, Verdict
from pqlite.store.engine import Engine
from pqlite.store.link import sqlstate
from pqlite.worker.supervisor import FOREVER

BATCH = 500
BUSY_PAUSE = 0.05

Claim = tuple[int, int]
Batch = list[tuple[Claim, Outcome]]


class Settler:
    """Holds decided outcomes until the database has answered for each: written, or refused by the fence."""

    def __init__(
        self,
        *,
        engine: Engine,
        worker_id: str,
        keep_done: bool,
        announce: Announcer,
        limit: int,
        has_room: Callable[[], None],
        put_back: Callable[[list[Outcome]], None],
        settled: Callable[[Iterable[int]], None],
    ) -> None:
        self._engine = engine
        self._keep_done = keep_done
        self._worker_id = worker_id
        self._announce = announce
        self._limit = limit
        self._has_room = has_room
        self._put_back = put_back
        self._settled = settled
        self._resting = False
        self._wake: Callable[[], None] = lambda: None
        self.undelivered: dict[Claim, Outcome] = {}

    def on_submit(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever there is something to write."""
        self._wake = wake

    @property
    def full(self) -> bool:
        """Return whether so many outcomes wait for the database that no more jobs should be claimed."""
        return len(self.undelivered) >= self._limit

    def submit(self, outcome: Outcome) -> None:
        """Take an outcome; it is written soon, by `once`."""
        if outcome.committed:
            if self._announce.wanted:
                self._announce(JobSettled(self._worker_id, outcome, outcome.expected))
            self._settled((outcome.job.id,))
            return
        if not self.undelivered or self._resting:
            self._wake()  # else `once` goes on by itself
        self.undelivered[outcome.job.id, outcome.job.claims] = outcome

    async def once(self) -> float:
        """Write one batch of one holder's outcomes; return how long to pause."""
        if not self.undelivered:
            return FOREVER
        holder = next(iter(self.undelivered.values())).job.locked_by or ""
        mine = ((claim, o) for claim, o in self.undelivered.items() if o.job.locked_by == holder)
        batch = list(islice(mine, BATCH))
        self._resting = False
        try:
            busy = await self._write(holder, batch, keep_done=self._keep_done)
        except Exception as error:
            if not _is_about_data(error):
                raise
            busy = await self._write_after_refusal(holder, batch)
        if not self.undelivered:
            return FOREVER
        self._resting = busy == len(batch)
        return BUSY_PAUSE if self._resting else 0.0

    def adopt(self, job: Job) -> bool:
        """Keep the outcome of a claim that was undone for the same claim, made again; False if there is none."""
        outcome = self.undelivered.get((job.id, job.claims))
        if outcome is None:
            return False
        self.undelivered[job.id, job.claims] = outcome._replace(job=job)
        self._wake()
        return True

    async def flush(self, seconds: float) -> int:
        """Write what is left, for as long as `seconds`; return how many outcomes could not be delivered."""
        try:
            async with asyncio.timeout(seconds):
                while self.undelivered:
                    try:
                        await asyncio.sleep(min(await self.once(), BUSY_PAUSE))
                    except Exception:
                        # A lost connection, in any of asyncpg's words; the next call makes another.
                        await asyncio.sleep(0.2)
        except TimeoutError:
            # Whatever it is, the jobs are recovered from the worker's row.
            return len(self.undelivered)
        return 0

    async def _write_after_refusal(self, holder: str, batch: Batch) -> int:
        if not self._keep_done:
            try:
                # A foreign key of the user's may forbid only the deletion.
                return await self._write(holder, batch)
            except Exception as error:
                if not _is_about_data(error):
                    raise
        return await self._write_one_by_one(holder, batch)

    async def _write(self, holder: str, batch: Batch, *, keep_done: bool = True) -> int:
        """Write a batch; return how many rows were locked by strangers and must be offered again."""
        rows = await self._engine.settle(holder, [outcome for _, outcome in batch], keep_done=keep_done)
        answers = {(row.id, row.claims): row for row in rows}
        busy, wanted, was_full = 0, self._announce.wanted, self.full
        again: list[Outcome] = []
        for claim, outcome in batch:
            answer = answers.get(claim) if answers else None
            verdict = None if answer is None else answer.verdict
            if verdict is Verdict.BUSY:
                busy += 1
                # Behind the others: a stranger's lock delays this row alone.
                self.undelivered[claim] = self.undelivered.pop(claim)
                continue
            if self.undelivered.get(claim) is not outcome:
                continue  # adopted meanwhile by a claim that was made again: it is to be offered once more
            del self.undelivered[claim]
            if verdict is Verdict.FENCED:
                self._announce(OutcomeRefused(self._worker_id, outcome))
                continue
            status = JobStatus.DONE if answer is None else answer.status
            if wanted or outcome.verb is not Verb.DONE:
                self._announce(JobSettled(self._worker_id, outcome, status))
            if status is JobStatus.READY or outcome.job.crashes:
                again.append(outcome)
        self._settled(job_id for (job_id, _), _ in batch)
        if again:
            # Who looked while this was being written did not see them, and may sleep by now.
            self._put_back(again)
        if was_full and not self.full:
            self._has_room()
        return busy

    async def _write_one_by_one(self, holder: str, batch: Batch) -> int:
        """Write rows singly, because one of them holds what the database refuses; that one fails with its reason."""
        busy, unstorable = 0, None
        for claim, outcome in batch:
            try:
                busy += await self._write(holder, [(claim, outcome)])
            except Exception as error:
                if not _is_about_data(error):
                    raise
                if outcome.result is None and outcome.verb is Verb.FAILED:
                    unstorable = error  # not even its failure can be written; the others go on
                    continue
                if self.undelivered.get(claim) is outcome:
                    text = f"The attempt ended, but its outcome cannot be stored: {format_error(error)}"
                    self.undelivered[claim] = outcome._replace(verb=Verb.FAILED, result=None, error=text)
        if unstorable is not None:
            raise unstorable
        return busy


def _is_about_data(error: BaseException) -> bool:
    """Return whether the database refused a row: data exceptions, integrity, limits, a trigger of the user's."""
    return sqlstate(error)[:2] in ("22", "23", "54", "P0")
