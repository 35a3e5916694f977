"""What a worker does in PostgreSQL: the engine's verbs, on connections of the worker's own."""

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
"""What the column holds, 24 days: a longer attempt must not make its outcome unstorable."""


class Lane(NamedTuple):
    """What a worker claims from: jobs of one type and priority in one queue, in the order of their due times."""

    queue: str
    job_type: str
    priority: int


class Mark(NamedTuple):
    """A place in a lane; a claim begins behind it."""

    run_after: datetime
    id: int


class Head(NamedTuple):
    """A lane that has READY jobs, the place of the first, and in how many seconds it is due by the server's clock."""

    lane: Lane
    mark: Mark
    due_in: float


class Claimed(NamedTuple):
    """Jobs of one lane that were claimed together, in the order they became due; lane None: suspects."""

    lane: Lane | None
    jobs: list[Job]


class Unknown(NamedTuple):
    """What a worker claimed within `since` before `until` (by the server's clock), but for what it knows of."""

    holder: str
    known: Sequence[int]
    since: timedelta
    until: datetime


class SettleAnswer(NamedTuple):
    """What became of one outcome, by the claim it belongs to, and the job's status by now."""

    id: int
    claims: int
    verdict: Verdict
    status: JobStatus


class Engine:
    """The engine's verbs over one connection. Each is one statement with a deadline, one atomic act, and safe to call
    from every process at any time.

    `renew`, and a `claim` that would get something, raise LeaseLost if the worker is not registered or was declared
    dead. Every verb raises TimeoutError, or what the connection raises (OSError, asyncpg's errors), if the database
    cannot be reached; it has then happened or not.
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
        """Claim up to `room` due jobs to start and `prefetch` more to start soon, lane after lane, each behind its
        mark; return them by lane, suspects first, each lane's in the order they became due; and whether jobs were
        passed over that may not wait.

        With `suspect`, jobs that dead workers held come first, in up to half of the worker's slots (at least one); one
        whose workers died twice, or whose last attempt it is, only while the worker runs no other of them. Neither they
        nor jobs that may start only once are claimed to wait; and while a suspect waits for room nothing is.

        Jobs whose payload is newer than `versions` says of their type are left to others.
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

        Jobs whose payload is newer than `versions` says of their type do not count. A known lane is looked at behind
        its mark only. Of the lanes with nothing due only the soonest is returned.
        """
        rows = await self.link.fetch(self._sql.lanes, *look(queues, types, known), _known(versions), deadline=deadline)
        return heads(rows)

    async def disown(self, unknown: Unknown) -> list[int]:
        """Release what the worker claimed in that time and does not know of; return the jobs' ids."""
        return [r[0] for r in await self.link.fetch(self._sql.disown, *unknown, deadline=10.0)]

    async def arm(self, duration: timedelta, queues: Sequence[str] | None = None) -> datetime:
        """Ask to be notified of new jobs in these queues (None: in any) for this long; return the store's time."""
        rows = await self.link.fetch(self._sql.arm, int(duration.total_seconds() * 1000), queues, deadline=5.0)
        now: datetime = rows[0][0]
        return now

    async def settle(
        self, holder: str, outcomes: Sequence[Outcome], *, keep_done: bool = True, deadline: float = 10.0
    ) -> list[SettleAnswer]:
        """Write outcomes of one holder's claims; return an answer for each but those that were DONE and are written.
        Safe to repeat.

        WRITTEN: the job's status says how it ended; it is CANCELLED, and not READY, if somebody had asked for that.
        ALREADY: an earlier call with this claim had landed. BUSY: another transaction has locked the job; ask again.
        FENCED: the claim is no longer current. Without `keep_done` a job that is DONE is deleted.
        """
        arguments = settlement(holder, outcomes, keep_done=keep_done, statuses=True)
        rows = await self.link.fetch(self._sql.settle, *arguments, deadline=deadline)
        return [SettleAnswer(r[0], r[1], Verdict(r[2]), JobStatus(r[3])) for r in rows]

    async def register(self, holder: str, label: str, lock_key: int | None, lease: timedelta, info: Any) -> None:
        """Announce the worker; from now on its lease speaks for its jobs, and its advisory lock if it has one."""
        arguments = holder, label, lock_key, lease, to_json(info).decode()
        self.next_schedule = (await self.link.fetch(self._sql.register, *arguments, deadline=5.0))[0][1]

    async def renew(
        self, holder: str, lease: timedelta, lock_key: int | None, *, deadline: float
    ) -> list[tuple[int, int]]:
        """Renew the worker's lease; return the claims (id, claims) that somebody asked to cancel."""
        with _fenced():
            rows = await self.link.fetch(self._sql.renew, holder, lease, lock_key, deadline=deadline)
        self.next_schedule = next((r[2] for r in rows if r[0] is None), None)
        return [(r[0], r[1]) for r in rows if r[0] is not None]

    async def unregister(self, holder: str) -> bool:
        """Say goodbye; return False if jobs still name the worker, which is then marked dead."""
        return bool((await self.link.fetch(self._sql.unregister, holder, deadline=3.0))[0][0])

    async def reap(self, judge: str, limit: int = 500) -> list[TakenOver]:
        """Declare dead workers dead if the judge may, and take over what they held, at most `limit` jobs.

        Dead is whose lease has passed, or whose lock is free 8 seconds after its last renewal. A judge must have
        renewed without a gap for 8 seconds, in which the server was not restarted; what other workers had renewed
        until it registered counts for it.
        """
        return [taken_over(r) for r in await self.link.fetch(self._sql.reap, judge, limit, deadline=5.0)]

    async def reap_stale(self, stale_after: timedelta) -> list[TakenOver]:
        """Take over jobs that no registered worker owns, by age."""
        return [taken_over(r) for r in await self.link.fetch(self._sql.reap_stale, stale_after, deadline=5.0)]

    async def next_death(self, judge: str) -> float | None:
        """Return in how many seconds another worker could be declared dead at the earliest; None if no other worker is
        registered, dead or alive.
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
    """Return the arguments of `Statements.lanes`, but for the last."""
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
    """Turn the SQL functions' PQ001 into LeaseLost."""
    try:
        yield
    except Exception as error:
        if sqlstate(error) == "PQ001":
            raise LeaseLost(str(error)) from None
        raise
