"""The statements of a worker: claim, settle, renew, reap and others, on connections of the worker's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, NamedTuple

from pydantic_core import to_json

from pqlite.errors import LeaseLost
from pqlite.job import Job, JobStatus, TakenOver
from pqlite.outcome import Outcome, Verdict
from pqlite.store.link import Link, sqlstate
from pqlite.store.rows import claimed_job, taken_over
from pqlite.store.statements import Statements

_due = attrgetter("run_after", "id")

MAX_DURATION_MS = 2**31 - 1
"""The maximum of the column `duration_ms`, 24 days; a longer duration is stored as this."""


class Lane(NamedTuple):
    """What a worker claims from: jobs of one type and priority in one queue, in the order of their due times."""

    queue: str
    job_type: str
    priority: int


class Mark(NamedTuple):
    """A position in a lane; a claim takes jobs behind it."""

    run_after: datetime
    id: int


class Head(NamedTuple):
    """A lane with READY jobs, the position of the first, and in how many seconds it is due by the server's clock."""

    lane: Lane
    mark: Mark
    due_in: float


class Claimed(NamedTuple):
    """Jobs of one lane that were claimed together, by due time; lane None: suspects."""

    lane: Lane | None
    jobs: list[Job]


class Unknown(NamedTuple):
    """Jobs that a worker (`holder`) has claimed in the time `since` before `until` (by the server's clock), except
    those whose ids are `known` to it: the answers to these claims were lost.
    """

    holder: str
    known: Sequence[int]
    since: timedelta
    until: datetime


class SettleAnswer(NamedTuple):
    """The database's verdict on one outcome, identified by its claim, and the job's status after it."""

    id: int
    claims: int
    verdict: Verdict
    status: JobStatus


class Engine:
    """A worker's statements on one connection. Each method is one atomic statement with a deadline, which every process
    may send at any time.

    `renew`, and a `claim` that finds a job, raise LeaseLost if the worker is not registered or was declared dead. If
    the database cannot be reached, every method raises TimeoutError or the error of the connection (OSError, asyncpg's
    errors); the statement may have been executed.
    """

    def __init__(self, link: Link, statements: Statements) -> None:
        self.link = link
        self._sql = statements
        self.next_schedule: float | None = None
        """In how many seconds a schedule was due at the latest `register` or `renew`; None: there is none."""

    async def try_lock(self, key: int, *, deadline: float) -> bool:
        """Take a session-level advisory lock, unless another session holds it; return whether it is held."""
        return bool((await self.link.fetch(self._sql.try_lock, key, deadline=deadline))[0][0])

    async def claim(
        self,
        holder: str,
        room: int,
        *,
        prefetch: int = 0,
        suspect: bool,
        queues: Sequence[str] | None,
        types: Sequence[str] | None,
        lanes: Sequence[tuple[Lane, Mark]],
        versions: Mapping[str, int] | None = None,
    ) -> tuple[list[Claimed], bool]:
        """Claim up to `room` due jobs to start now and `prefetch` more to start soon, lane by lane, each behind its
        mark. Return them by lane, suspects first, each lane by due time; and whether jobs were left because they must
        not be prefetched.

        With `suspect`, jobs whose worker died come first, in up to half of the worker's slots (at least one). A suspect
        that has lost two workers, or is on its last attempt, is claimed only while the worker runs no other suspect.
        Neither suspects nor jobs with `max_attempts=1` are prefetched, and while a suspect waits for a slot, nothing
        is.

        Jobs whose payload is newer than `versions` says for their type are left for other workers.
        """
        with _fenced():
            rows = await self.link.fetch(
                self._sql.claim,
                holder,
                room,
                suspect,
                queues,
                types,
                [lane.queue for lane, _ in lanes],
                [lane.job_type for lane, _ in lanes],
                [lane.priority for lane, _ in lanes],
                [mark.run_after for _, mark in lanes],
                [mark.id for _, mark in lanes],
                prefetch,
                _known(versions),
                deadline=10.0,
            )
        by_lane: dict[Lane | None, list[Job]] = {}
        latest: tuple[Any, ...] = ()
        for row in rows:
            job = claimed_job(row, holder)
            place = (job.queue, job.job_type, job.priority, job.crashes)
            if place != latest:
                latest = place
                lane = None if job.crashes else Lane(*place[:3])
                same = by_lane.setdefault(lane, [])
            same.append(job)
        for jobs in by_lane.values():
            jobs.sort(key=_due)  # the database answers in the order of ids
        order: list[Lane | None] = [None, *(lane for lane, _ in lanes)]
        return [Claimed(lane, by_lane[lane]) for lane in order if lane in by_lane], bool(rows) and rows[0]["cut"]

    async def lanes(
        self,
        queues: Sequence[str] | None,
        types: Sequence[str] | None,
        known: Iterable[tuple[Lane, Mark]] = (),
        *,
        versions: Mapping[str, int] | None = None,
        deadline: float = 10.0,
    ) -> list[Head]:
        """Return the lanes that have READY jobs of these types, each with its first job, best priority first.

        Jobs whose payload is newer than `versions` says for their type are ignored. In a known lane only jobs behind
        its mark are considered. Of the lanes with nothing due only the soonest is returned.
        """
        rows = await self.link.fetch(self._sql.lanes, *look(queues, types, known), _known(versions), deadline=deadline)
        return heads(rows)

    async def disown(self, unknown: Unknown) -> list[int]:
        """Make jobs READY again that the worker holds and does not know of; return their ids."""
        return [r[0] for r in await self.link.fetch(self._sql.disown, *unknown, deadline=10.0)]

    async def arm(self, duration: timedelta, queues: Sequence[str] | None = None) -> datetime:
        """Ask for notifications about new jobs in these queues (None: in any) for this long; return the server's
        time.
        """
        rows = await self.link.fetch(self._sql.arm, int(duration.total_seconds() * 1000), queues, deadline=5.0)
        now: datetime = rows[0][0]
        return now

    async def settle(
        self, holder: str, outcomes: Sequence[Outcome], *, keep_done: bool = True, deadline: float = 10.0
    ) -> list[SettleAnswer]:
        """Write outcomes of one holder's claims. Return an answer for each, except for those that were written as DONE.
        The call can be repeated.

        WRITTEN: the status is that of the job afterwards; CANCELLED instead of READY, if the job was asked to cancel.
        ALREADY: an earlier call has written the outcome of this claim. BUSY: another transaction has locked the row;
        try again. FENCED: the claim is no longer current. Without `keep_done`, jobs that are DONE are deleted.
        """
        arguments = settlement(holder, outcomes, keep_done=keep_done, statuses=True)
        rows = await self.link.fetch(self._sql.settle, *arguments, deadline=deadline)
        return [SettleAnswer(r[0], r[1], Verdict(r[2]), JobStatus(r[3])) for r in rows]

    async def register(self, holder: str, label: str, lock_key: int | None, lease: timedelta, info: Any) -> None:
        """Register the worker: from now on its lease, and its advisory lock if it has one, show that it is alive."""
        arguments = holder, label, lock_key, lease, to_json(info).decode()
        self.next_schedule = (await self.link.fetch(self._sql.register, *arguments, deadline=5.0))[0][1]

    async def renew(
        self, holder: str, lease: timedelta, lock_key: int | None, *, deadline: float
    ) -> list[tuple[int, int]]:
        """Renew the worker's lease; return the claims (id, claims) of its jobs that were asked to cancel."""
        with _fenced():
            rows = await self.link.fetch(self._sql.renew, holder, lease, lock_key, deadline=deadline)
        self.next_schedule = next((r[2] for r in rows if r[0] is None), None)
        return [(r[0], r[1]) for r in rows if r[0] is not None]

    async def unregister(self, holder: str) -> bool:
        """Delete the worker's row; if it still holds jobs, mark it dead instead and return False."""
        return bool((await self.link.fetch(self._sql.unregister, holder, deadline=3.0))[0][0])

    async def reap(self, judge: str, limit: int = 500) -> list[TakenOver]:
        """Declare workers dead and take over the jobs that they held, at most `limit`.

        A worker is dead if its lease has ended, or if its advisory lock is free 8 seconds after its last renewal. Only
        a worker that has itself renewed without a gap for 8 seconds (`judge`), during which the server was not
        restarted, may declare others dead; renewals of other workers before its registration count for it.
        """
        return [taken_over(r) for r in await self.link.fetch(self._sql.reap, judge, limit, deadline=5.0)]

    async def reap_stale(self, stale_after: timedelta) -> list[TakenOver]:
        """Take over jobs, by age, that no registered worker holds."""
        return [taken_over(r) for r in await self.link.fetch(self._sql.reap_stale, stale_after, deadline=5.0)]

    async def expire(self) -> list[int]:
        """Cancel waiting jobs whose `expires_at` has passed; return their ids."""
        return [row[0] for row in await self.link.fetch(self._sql.expire, deadline=5.0)]

    async def next_death(self, judge: str) -> float | None:
        """Return in how many seconds the next worker could be declared dead; None if no other worker is registered,
        dead or alive.
        """
        seconds = (await self.link.fetch(self._sql.next_death, judge, deadline=5.0))[0][0]
        return None if seconds is None else float(seconds)


def settlement(
    holder: str, outcomes: Iterable[Outcome], *, keep_done: bool = True, statuses: bool = False
) -> list[Any]:
    """Return the arguments of `Statements.settle`."""
    batch = sorted([(o.job.id, o.job.claims, o) for o in outcomes])
    return [
        holder,
        # As literals: of each element of a list asyncpg asks whether it is a list itself, which costs more than this.
        _literal([job_id for job_id, _, _ in batch]),
        _literal([claims for _, claims, _ in batch]),
        _literal([o.verb for _, _, o in batch]),
        # Where the rest is null, the array may end.
        [] if all(o.result is None for _, _, o in batch) else [o.result for _, _, o in batch],
        [] if all(o.error is None for _, _, o in batch) else [o.error for _, _, o in batch],
        _literal([int(o.delay * 1000) for _, _, o in batch]),
        _literal(["null" if o.duration_ms is None else min(o.duration_ms, MAX_DURATION_MS) for _, _, o in batch]),
        keep_done,
        statuses,
    ]


def _literal(values: Iterable[int | str]) -> str:
    return "{" + ",".join(map(str, values)) + "}"


def _known(versions: Mapping[str, int] | None) -> str | None:
    return to_json(versions).decode() if versions else None


def look(queues: Sequence[str] | None, types: Sequence[str] | None, known: Iterable[tuple[Lane, Mark]]) -> list[Any]:
    """Return the arguments of `Statements.lanes` except the last."""
    # The order of the index, whose text columns compare as bytes.
    lanes = sorted(known, key=lambda k: (k[0].queue.encode(), k[0].job_type.encode(), -k[0].priority))
    return [
        queues,
        types,
        [lane.queue for lane, _ in lanes],
        [lane.job_type for lane, _ in lanes],
        [lane.priority for lane, _ in lanes],
        [mark.run_after for _, mark in lanes],
        [mark.id for _, mark in lanes],
    ]


def heads(rows: Iterable[Any]) -> list[Head]:
    """Return the rows of `Statements.lanes`, best priority first."""
    found = [Head(Lane(r[0], r[1], r[2]), Mark(r[3], r[4]), r[5]) for r in rows]
    return sorted(found, key=lambda head: (-head.lane.priority, head.mark))


@contextmanager
def _fenced() -> Iterator[None]:
    """Raise LeaseLost instead of the SQL functions' error PQ001."""
    try:
        yield
    except Exception as error:
        if sqlstate(error) == "PQ001":
            raise LeaseLost(str(error)) from None
        raise
