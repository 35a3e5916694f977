"""Writes outcomes to the database in batches: outcomes that arrive during a write form the next batch. Repeats a write
until the database has answered.
"""

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
    """Keeps each outcome until the database has written it, or refused it by the fence."""

    def __init__(
        self,
        *,
        engine: Engine,
        worker_id: str,
        keep_done: bool,
        announce: Announcer,
        limit: int,
        has_room: Callable[[], None],
        made_ready: Callable[[list[Outcome]], None],
        settled: Callable[[Iterable[int]], None],
    ) -> None:
        self._engine = engine
        self._keep_done = keep_done
        self._worker_id = worker_id
        self._announce = announce
        self._limit = limit
        self._has_room = has_room
        self._made_ready = made_ready
        self._settled = settled
        self._pausing = False
        self._wake: Callable[[], None] = lambda: None
        self.undelivered: dict[Claim, Outcome] = {}

    def on_submit(self, wake: Callable[[], None]) -> None:
        """Call `wake` when there is an outcome to write."""
        self._wake = wake

    @property
    def full(self) -> bool:
        """Return whether too many outcomes wait for the database for more jobs to be claimed."""
        return len(self.undelivered) >= self._limit

    def submit(self, outcome: Outcome) -> None:
        """Accept an outcome; the next `step` writes it."""
        if outcome.committed:
            if self._announce.wanted:
                self._announce(JobSettled(self._worker_id, outcome, outcome.expected))
            self._settled((outcome.job.id,))
            return
        if not self.undelivered or self._pausing:
            self._wake()  # otherwise `step` is called again without a pause
        self.undelivered[outcome.job.id, outcome.job.claims] = outcome

    async def step(self) -> float:
        """Write one batch of outcomes of one registration (`locked_by`); return how long to pause."""
        if not self.undelivered:
            return FOREVER
        holder = next(iter(self.undelivered.values())).job.locked_by or ""
        mine = ((claim, o) for claim, o in self.undelivered.items() if o.job.locked_by == holder)
        batch = list(islice(mine, BATCH))
        self._pausing = False
        try:
            busy = await self._write(holder, batch, keep_done=self._keep_done)
        except Exception as error:
            if not _is_about_data(error):
                raise
            busy = await self._write_after_refusal(holder, batch)
        if not self.undelivered:
            return FOREVER
        self._pausing = busy == len(batch)
        return BUSY_PAUSE if self._pausing else 0.0

    def adopt(self, job: Job) -> bool:
        """Assign the outcome of an undone claim to the same claim made again; return False if there is none."""
        outcome = self.undelivered.get((job.id, job.claims))
        if outcome is None:
            return False
        self.undelivered[job.id, job.claims] = outcome._replace(job=job)
        self._wake()
        return True

    async def flush(self, seconds: float) -> int:
        """Write the remaining outcomes, for at most `seconds`; return how many could not be delivered."""
        try:
            async with asyncio.timeout(seconds):
                while self.undelivered:
                    try:
                        await asyncio.sleep(min(await self.step(), BUSY_PAUSE))
                    except Exception:
                        # Such as a lost connection, for which asyncpg has many exceptions; the next step reconnects.
                        await asyncio.sleep(0.2)
        except TimeoutError:
            # The reaper of another worker recovers the jobs.
            return len(self.undelivered)
        return 0

    async def _write_after_refusal(self, holder: str, batch: Batch) -> int:
        if not self._keep_done:
            try:
                # A foreign key of the user's may forbid only the deletion of the row.
                return await self._write(holder, batch)
            except Exception as error:
                if not _is_about_data(error):
                    raise
        return await self._write_one_by_one(holder, batch)

    async def _write(self, holder: str, batch: Batch, *, keep_done: bool = True) -> int:
        """Write a batch; return how many rows were locked by other transactions and must be written again."""
        rows = await self._engine.settle(holder, [outcome for _, outcome in batch], keep_done=keep_done)
        answers = {(row.id, row.claims): row for row in rows}
        busy, wanted, was_full = 0, self._announce.wanted, self.full
        ready: list[Outcome] = []
        for claim, outcome in batch:
            answer = answers.get(claim) if answers else None
            verdict = None if answer is None else answer.verdict
            if verdict is Verdict.BUSY:
                busy += 1
                # Moved to the end: the lock must delay this row alone.
                self.undelivered[claim] = self.undelivered.pop(claim)
                continue
            if self.undelivered.get(claim) is not outcome:
                continue  # assigned to a new claim meanwhile: it must be written again
            del self.undelivered[claim]
            if verdict is Verdict.FENCED:
                self._announce(OutcomeRefused(self._worker_id, outcome))
                continue
            status = JobStatus.DONE if answer is None else answer.status
            if wanted or outcome.verb is not Verb.DONE:
                self._announce(JobSettled(self._worker_id, outcome, status))
            if status is JobStatus.READY or outcome.job.crashes:
                ready.append(outcome)
        self._settled(job_id for (job_id, _), _ in batch)
        if ready:
            # A claim during this write did not see them, and the claimer may be sleeping now.
            self._made_ready(ready)
        if was_full and not self.full:
            self._has_room()
        return busy

    async def _write_one_by_one(self, holder: str, batch: Batch) -> int:
        """Write rows one by one, because the database refuses one of them; that job fails with the reason."""
        busy, unstorable = 0, None
        for claim, outcome in batch:
            try:
                busy += await self._write(holder, [(claim, outcome)])
            except Exception as error:
                if not _is_about_data(error):
                    raise
                if outcome.result is None and outcome.verb is Verb.FAILED:
                    unstorable = error  # its failure cannot be written either; continue with the others
                    continue
                if self.undelivered.get(claim) is outcome:
                    text = f"The attempt ended, but its outcome cannot be stored: {format_error(error)}"
                    self.undelivered[claim] = outcome._replace(verb=Verb.FAILED, result=None, error=text)
        if unstorable is not None:
            raise unstorable
        return busy


def _is_about_data(error: BaseException) -> bool:
    """Return whether the database refused a row: a data exception, a constraint, a limit or a trigger of the user's."""
    return sqlstate(error)[:2] in ("22", "23", "54", "P0")
