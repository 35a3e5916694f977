"""Runs the jobs that are due, one after the other, without a worker or a background task.

(Over 300 lines; a quarter of them say what `drain` promises.)
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from pqlite.backoff import Backoff, BackoffPolicy, policy_of
from pqlite.errors import ConfigurationError, NotStarted
from pqlite.events import JobSettled, Observer, OutcomeRefused
from pqlite.events.announcer import Announcer
from pqlite.handlers import AnyHandler, Middleware, checked, versions
from pqlite.job import Job
from pqlite.outcome import Outcome, Verb, Verdict
from pqlite.schedules import Schedule
from pqlite.store.engine import SettleAnswer
from pqlite.store.postgres import PgJobStore
from pqlite.store.scheduling import planned
from pqlite.testing.memory import MemoryJobStore
from pqlite.uninterrupted import uninterrupted
from pqlite.worker.arguments import definitions, queues_to_serve
from pqlite.worker.executor import Executor
from pqlite.worker.lanes import place_of

PURPOSE = "drain"
LEASE = timedelta(hours=1)
LOOKED_AT = 1000
BUSY_PAUSE = 0.02
BUSY_SECONDS = 5.0
STOP_SECONDS = 3.0


class AttemptFailed(AssertionError):
    """An attempt failed unexpectedly; the message contains its traceback."""

    def __init__(self, outcome: Outcome) -> None:
        job = outcome.job
        super().__init__(f"Job {job.id} ({job.job_type}), attempt {job.attempts}: {outcome.verb}\n{outcome.error}")
        self.outcome = outcome


async def drain(
    store: PgJobStore | MemoryJobStore,
    handlers: Mapping[str, AnyHandler],
    *,
    max_jobs: int = 1000,
    raises: bool = True,
    queues: Sequence[str] | None = None,
    backoff: Backoff | None = None,
    observers: Sequence[Observer] = (),
    resources: Mapping[str, Any] | None = None,
    middleware: Sequence[Middleware] = (),
    schedules: Sequence[Schedule] = (),
    now: datetime | None = None,
) -> list[Job]:
    """Run jobs until none is due, including jobs that become due meanwhile. Return the jobs as they are after each
    attempt, in the order in which they ran: suspects first, then best priority first, then by due time.

    Jobs that are due later, such as retries, are not run (see MemoryJobStore.clock), nor are jobs without a handler.
    The store must have been started.

    Args:
        max_jobs: the maximum number of attempts; more are an error, because jobs may enqueue each other for ever.
        raises: if an attempt ends in a retry or FAILED, raise AttemptFailed after that was written. Pass False to test
            jobs that fail.
        queues, backoff, observers, middleware: as for Worker; resources: a mapping. When this returns or raises, the
            observers have received all events, or a second has passed.

    With a store in memory schedules fire as well, those of the handlers, of `schedules` and of the store. `now` moves
    its clock to a later time, from slot to slot, and runs what each makes due: so a test can move through a month
    (see `max_jobs`). Slots begin with the first call that has the schedule.

        store = MemoryJobStore(clock=Clock(datetime(2026, 3, 1, tzinfo=UTC)))
        await drain(store, handlers, now=datetime(2026, 4, 1, tzinfo=UTC))

    If the call is cancelled, the running job becomes READY again, unless its handler does not stop within 3 seconds.

    Raises:
        AttemptFailed: see `raises`.
        AssertionError: see `max_jobs`; or a transaction that has not ended keeps a job from being settled, for longer
            than 5 seconds: a handler completed it on a connection that was not committed (see `bound`).
        NotStarted: the store was not.
        ConfigurationError: `now` or `schedules` with a store that is not in memory; ValueError: `now` has passed.
    """
    if not store.started:
        raise NotStarted("The store is not started: 'await store.start()', or 'async with store:'.")
    ran: list[Job] = []

    async def run() -> None:
        left = max_jobs - len(ran)
        once = Drain(store, handlers, left, raises, queues, backoff, observers, resources or {}, middleware)
        ran.extend(await once.run())

    if isinstance(store, MemoryJobStore):
        await through_time(store, definitions(schedules, handlers), now, run)
    elif now is not None or schedules:
        raise ConfigurationError("now= and schedules= are for a MemoryJobStore: on PostgreSQL a Worker fires schedules")
    else:
        await run()
    return ran


async def through_time(
    store: MemoryJobStore,
    defined: Sequence[Mapping[str, Any]],
    until: datetime | None,
    run: Callable[[], Awaitable[None]],
) -> None:
    """Fire the schedules of a store in memory from slot to slot, and call `run` after each."""
    port = store._schedules()
    await port.reconcile(defined, timedelta(0), disable=False)
    end = store.clock.now() if until is None else until.astimezone(UTC)
    if until is not None and end < store.clock.now():
        raise ValueError(f"a clock is set forward: it is {store.clock.now()} already, later than now={until}")
    while True:
        waiting = await port.due(LOOKED_AT)
        due = [each for each in waiting if each.next_at <= each.now]
        if due:
            await port.fire([planned(each) for each in due])
            continue
        await run()
        soonest = min((each.next_at for each in waiting), default=None)
        if soonest is None or soonest > end:
            break
        store.clock.advance(max(soonest - store.clock.now(), timedelta(0)))
    if until is not None and end > store.clock.now():
        store.clock.advance(end - store.clock.now())
        await run()


class Drain:
    """One run of `drain`."""

    def __init__(
        self,
        store: PgJobStore | MemoryJobStore,
        handlers: Mapping[str, AnyHandler],
        max_jobs: int,
        raises: bool,
        queues: Sequence[str] | None,
        backoff: Backoff | None,
        observers: Sequence[Observer],
        resources: Mapping[str, Any],
        middleware: Sequence[Middleware],
    ) -> None:
        self._store = store
        self._handlers = checked(handlers)
        self._max_jobs = max_jobs
        self._raises = raises
        wanted = queues_to_serve(queues), list(self._handlers), versions(self._handlers)
        self._claims: _Claims
        if isinstance(store, MemoryJobStore):
            self._claims = _MemoryClaims(store, *wanted)
        else:
            self._claims = _EngineClaims(store, *wanted)
        self._outcomes: list[Outcome] = []
        self._announce = Announcer(observers)
        self._executor = Executor(
            handlers=self._handlers,
            middleware=middleware,
            resources=resources,
            store=store,
            worker_id=PURPOSE,
            concurrency=1,
            backoff=BackoffPolicy() if backoff is None else policy_of(backoff),
            announce=self._announce,
            submit=self._outcomes.append,
            want_more=lambda: None,
        )

    async def run(self) -> list[Job]:
        """Run what is due; see `drain`."""
        ran: list[Job] = []
        try:
            await self._claims.begin()
            while (job := await self._claims.claim()) is not None:
                if len(ran) >= self._max_jobs:
                    await self._settle(Outcome(job, Verb.RELEASED))
                    raise AssertionError(
                        f"{self._max_jobs} attempts were made and a job of type {job.job_type!r} is still due: does "
                        "it enqueue itself, or retry at once, for ever? (max_jobs=)"
                    )
                outcome = await self._attempt(job)
                ran.append(await self._store.get(job.id))
                if self._raises and outcome.verb in (Verb.RETRY, Verb.FAILED):
                    raise AttemptFailed(outcome)
        finally:
            try:
                await uninterrupted(self._claims.end())
            finally:
                await self._announce.finish()
        return ran

    async def _attempt(self, job: Job) -> Outcome:
        self._executor.start(job)
        try:
            await self._executor.drained()
        finally:
            if self._executor.running:  # the test was cancelled
                self._executor.cancel_all("shutdown")
                await uninterrupted(self._stopped())
            # There is no outcome if the handler does not stop.
            for outcome in self._outcomes:
                if outcome.committed:
                    self._announce(JobSettled(PURPOSE, outcome, outcome.expected))
                else:
                    await uninterrupted(self._settle(outcome))
        return self._outcomes.pop()

    async def _stopped(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._executor.drained()

    async def _settle(self, outcome: Outcome) -> None:
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            answer = await self._claims.settle(outcome)
            if answer is None or answer.verdict is not Verdict.BUSY:
                if answer is not None and answer.verdict is Verdict.FENCED:
                    self._announce(OutcomeRefused(PURPOSE, outcome))
                else:
                    self._announce(JobSettled(PURPOSE, outcome, outcome.expected if answer is None else answer.status))
                return
            if time.monotonic() >= deadline:
                raise AssertionError(
                    f"Job {outcome.job.id} ({outcome.job.job_type}) has ended ({outcome.verb}), which cannot be "
                    "written: a transaction that is still open holds its row. Did its handler complete it on a "
                    "connection whose transaction the test never commits? To test within a transaction, drain a store "
                    f"that is bound to its connection: bound(conn).\n{outcome.error or ''}"
                )
            await asyncio.sleep(BUSY_PAUSE)


class _Claims(Protocol):
    """Claims single jobs from a store and writes outcomes."""

    async def begin(self) -> None: ...

    async def claim(self) -> Job | None: ...

    async def settle(self, outcome: Outcome) -> SettleAnswer | None: ...

    async def end(self) -> None: ...


class _EngineClaims:
    """Does so as a registered worker."""

    def __init__(
        self, store: PgJobStore, queues: Sequence[str] | None, types: Sequence[str], versions: Mapping[str, int]
    ) -> None:
        self._engine = store.engine(PURPOSE)
        self._queues = queues
        self._types = types
        self._versions = versions
        self._holder = f"drain-{secrets.token_hex(4)}"

    async def begin(self) -> None:
        await self._engine.register(self._holder, PURPOSE, None, LEASE, {})
        await self._engine.expire()

    async def claim(self) -> Job | None:
        heads = await self._engine.lanes(self._queues, self._types, versions=self._versions)
        claimed, _ = await self._engine.claim(
            self._holder,
            1,
            suspect=True,
            queues=self._queues,
            types=self._types,
            lanes=[place_of(head) for head in heads if head.due_in <= 0],
            versions=self._versions,
        )
        return claimed[0].jobs[0] if claimed else None

    async def settle(self, outcome: Outcome) -> SettleAnswer | None:
        return next(iter(await self._engine.settle(self._holder, [outcome])), None)

    async def end(self) -> None:
        try:
            await self._engine.unregister(self._holder)
        finally:
            await self._engine.link.close()


class _MemoryClaims:
    """Does so in memory."""

    def __init__(
        self, store: MemoryJobStore, queues: Sequence[str] | None, types: Sequence[str], versions: Mapping[str, int]
    ) -> None:
        self._store = store
        self._queues = queues
        self._types = types
        self._versions = versions
        self._holder = f"drain-{secrets.token_hex(4)}"

    async def begin(self) -> None:
        """Do nothing: there are no workers in memory."""

    async def claim(self) -> Job | None:
        return await self._store.claim_due(self._holder, self._queues, self._types, self._versions)

    async def settle(self, outcome: Outcome) -> SettleAnswer | None:
        return await self._store.settle(outcome)

    async def end(self) -> None:
        """Do nothing."""
