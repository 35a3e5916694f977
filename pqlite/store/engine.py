"""What a worker says to its store: the engine's verbs, and what it needs beside them.

The docstrings are the specification, as those of JobStore are. `pg_engine.py` says it in SQL.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pqlite.job import Job, JobStatus, TakenOver
from pqlite.outcome import Outcome, Verdict
from pqlite.store.base import JobStore

if TYPE_CHECKING:
    from pqlite.store.route import Pooling


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


class Answer(NamedTuple):
    """What became of one outcome, by the claim it belongs to, and the job's status by now."""

    id: int
    claims: int
    verdict: Verdict
    status: JobStatus


class EngineLink(Protocol):
    """The connection that an engine's verbs go over. What is not connected connects by itself."""

    @property
    def connected(self) -> bool:
        """Return whether the connection is believed to be up."""
        ...

    @property
    def generation(self) -> int:
        """Return how many connections there have been; a change means that answers may have been lost."""
        ...

    @property
    def last_error(self) -> BaseException | None:
        """Return what ended the latest connection, or kept the next from being made; None while connected."""
        ...

    @property
    def lost_at(self) -> float:
        """Return when the latest connection was thrown away (time.monotonic)."""
        ...

    @property
    def socket(self) -> Any:
        """Return the connection's socket, None if there is none."""
        ...

    async def fetch(self, sql: str, *args: Any, deadline: float) -> Sequence[Any]:
        """Run one statement within `deadline` seconds (the sentinel's, about its session's advisory lock)."""
        ...

    async def connect(self, deadline: float) -> None:
        """Make the connection if there is none."""
        ...

    async def close(self, seconds: float = 1.0) -> None:
        """Close the connection: a session's lock is free then, and nobody listens on it."""
        ...

    def holds(self, conn: object) -> bool:
        """Return whether this is the connection in use."""
        ...


class Engine(Protocol):
    """The engine's verbs. Each is one atomic act, safe to call from every process at any time.

    `renew`, and a `claim` that would get something, raise LeaseLost if the worker is not registered or was declared
    dead. Every verb raises TimeoutError, or what the connection raises, if the store cannot be reached; it has then
    happened or not.
    """

    @property
    def link(self) -> EngineLink:
        """Return the connection."""
        ...

    @property
    def next_schedule(self) -> float | None:
        """Return in how many seconds a schedule was due at the latest `register` or `renew`; None: there is none."""
        ...

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
        ...

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
        ...

    async def disown(self, unknown: Unknown) -> list[int]:
        """Release what the worker claimed in that time and does not know of; return the jobs' ids."""
        ...

    async def arm(self, duration: timedelta, queues: Sequence[str] | None = None) -> datetime:
        """Ask to be notified of new jobs in these queues (None: in any) for this long; return the store's time."""
        ...

    async def settle(
        self, holder: str, outcomes: Sequence[Outcome], *, keep_done: bool = True, deadline: float = 10.0
    ) -> list[Answer]:
        """Write outcomes of one holder's claims; return an answer for each but those that were DONE and are written.
        Safe to repeat.

        WRITTEN: the job's status says how it ended; it is CANCELLED, and not READY, if somebody had asked for that.
        ALREADY: an earlier call with this claim had landed. BUSY: another transaction has locked the job; ask again.
        FENCED: the claim is no longer current. Without `keep_done` a job that is DONE is deleted.
        """
        ...

    async def register(self, holder: str, label: str, lock_key: int | None, lease: timedelta, info: Any) -> None:
        """Announce the worker; from now on its lease speaks for its jobs, and its advisory lock if it has one."""
        ...

    async def renew(
        self, holder: str, lease: timedelta, lock_key: int | None, *, deadline: float
    ) -> list[tuple[int, int]]:
        """Renew the worker's lease; return the claims (id, claims) that somebody asked to cancel."""
        ...

    async def unregister(self, holder: str) -> bool:
        """Say goodbye; return False if jobs still name the worker, which is then marked dead."""
        ...

    async def reap(self, judge: str, limit: int = 500) -> list[TakenOver]:
        """Declare dead workers dead if the judge may, and take over what they held, at most `limit` jobs.

        Dead is whose lease has passed, or whose lock is free 8 seconds after its last renewal. A judge must have
        renewed without a gap for 8 seconds, in which the server was not restarted; what other workers had renewed
        until it registered counts for it.
        """
        ...

    async def reap_stale(self, stale_after: timedelta) -> list[TakenOver]:
        """Take over jobs that no registered worker owns, by age."""
        ...

    async def next_death(self, judge: str) -> float | None:
        """Return in how many seconds another worker could be declared dead at the earliest; None if no other worker is
        registered, dead or alive.
        """
        ...


class WorkerStore(JobStore, Protocol):
    """A store that a Worker can run on."""

    @property
    def schema(self) -> str:
        """Return the name by which the store's notifications are told from those of others."""
        ...

    @property
    def started(self) -> bool:
        """Return whether the store can be used."""
        ...

    @property
    def pooling(self) -> Pooling | None:
        """Return what pooler the latest connection met, None where that is not known, or there is no connection."""
        ...

    @property
    def listen_pooling(self) -> Pooling | None:
        """Return the same of the connection that listens."""
        ...

    def engine(self, purpose: str) -> Engine:
        """Return the engine's verbs over a new connection, which belongs to the running event loop.

        Raises:
            ConfigurationError: the store cannot make one.
        """
        ...

    def listening_engine(self, purpose: str, on_connect: Callable[[Any], Awaitable[None]]) -> Engine:
        """Return the same over a connection that notifications reach; `on_connect` is called with each new one.

        It is given what has asyncpg's `fetchrow`, `add_listener` and `add_termination_listener`, with one session
        behind it, whose advisory lock is free when that ends.

        Raises:
            ConfigurationError: the store cannot make one.
        """
        ...

    async def check_schema(self) -> str | None:
        """Return if a worker can work here.

        Raises:
            SchemaError: the schema is missing, older or newer.
        """
        ...

    def on_enqueue(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each act of this store that has enqueued jobs, once it is committed; return a function
        that stops that.
        """
        ...

    def look_again(self, job_ids: Iterable[int]) -> None:
        """Look at these jobs at once, if anybody in `wait_for` waits for them: they may have ended."""
        ...

    async def prune(
        self, done: timedelta | None, failed: timedelta | None, cursor: int | None = None, *, chunk: int = 1000
    ) -> tuple[int | None, int]:
        """Delete one chunk of jobs that finished longer ago than `done` (DONE) or `failed` (FAILED, CANCELLED).

        None keeps them for ever. Returns where to go on (None: there is nothing further) and how many were deleted.
        """
        ...
