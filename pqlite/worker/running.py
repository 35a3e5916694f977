"""One run of a worker: its parts, introduced to each other, and the order in which they start and stop."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import signal
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pqlite.backoff import BackoffPolicy, IdlePollPolicy, LoopErrorPolicy
from pqlite.errors import SchemaError, WorkerError
from pqlite.events import (
    Announcer,
    LoopBlocked,
    LoopFailed,
    LoopRecovered,
    WorkerFenced,
    WorkerRegistered,
    WorkerStopped,
    WorkerStopping,
)
from pqlite.handlers import Handler
from pqlite.job import Job
from pqlite.outcome import Outcome, Verb
from pqlite.schema import channel
from pqlite.settings import WorkerSettings
from pqlite.store.postgres import PgJobStore
from pqlite.worker.claimer import Claimer
from pqlite.worker.executor import Executor
from pqlite.worker.pruner import Pruner
from pqlite.worker.reaper import Reaper
from pqlite.worker.sentinel import Sentinel
from pqlite.worker.settler import Settler
from pqlite.worker.supervisor import Loop

logger = logging.getLogger(__name__)

TICK = 0.1
START_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a worker is to run, and how."""

    store: PgJobStore
    handlers: Mapping[str, Handler]
    settings: WorkerSettings
    worker_id: str
    queues: Sequence[str] | None
    unknown_job_types: str
    startup: str
    idle: IdlePollPolicy
    backoff: BackoffPolicy
    loop_errors: LoopErrorPolicy
    announce: Announcer


class Running:
    """The parts of one run. Made, started and stopped in one task of one event loop."""

    def __init__(self, plan: Plan, drain: asyncio.Event) -> None:
        settings, announce = plan.settings, plan.announce
        self._plan = plan
        self._announce = announce
        self._drain = drain
        self._registered = asyncio.Event()
        self._schema_seen = False
        self._started = self._stopping = False
        self._tasks: dict[str, asyncio.Task[None]] = {}
        types = None if plan.unknown_job_types == "fail" else list(plan.handlers)

        self._claims = plan.store.engine("claimer")
        self._settles = plan.store.engine("settler")
        self._sentinel = Sentinel(
            make_engine=plan.store.engine,
            label=plan.worker_id,
            channel=channel(plan.store.schema),
            lease=settings.lease,
            renew_every=settings.renew_every,
            info={
                "host": platform.node(),
                "pid": os.getpid(),
                "job_types": types,
                "queues": plan.queues,
                "concurrency": settings.concurrency,
            },
            listener=self,
        )
        self.settler = Settler(
            engine=self._settles,
            worker_id=plan.worker_id,
            announce=announce,
            limit=4 * settings.concurrency + 500,
            settled=lambda: self._claiming.wake(),
        )
        self.executor = Executor(
            handlers=plan.handlers,
            store=plan.store,
            worker_id=plan.worker_id,
            concurrency=settings.concurrency,
            backoff=plan.backoff,
            announce=announce,
            submit=self.settler.submit,
        )
        self.claimer = Claimer(
            engine=self._claims,
            worker_id=plan.worker_id,
            queues=plan.queues,
            types=types,
            idle=plan.idle,
            announce=announce,
            room=self._room,
            suspect_runs=lambda: self.executor.runs_suspect,
            known=lambda: [*self.executor.running, *(job_id for job_id, _ in self.settler.undelivered)],
            accept=self._accept,
            lost=lambda _holder: self._sentinel.hurry(),
        )
        self.reaper = Reaper(
            reap=lambda judge: self._sentinel.call(lambda engine: engine.reap(judge)),
            reap_stale=lambda after: self._sentinel.call(lambda engine: engine.reap_stale(after)),
            next_death=lambda judge: self._sentinel.call(lambda engine: engine.next_death(judge)),
            worker_id=plan.worker_id,
            stale_every=settings.reap_stale_every,
            stale_after=settings.default_stale_after,
            announce=announce,
            given_back=self.notified,
        )
        pruner = Pruner(
            prune=plan.store.prune,
            done=settings.retain_done,
            failed=settings.retain_failed,
            worker_id=plan.worker_id,
            announce=announce,
        )
        self._starting = self._loop("startup", self._check_schema)
        self._claiming = self._loop("claimer", self.claimer.once)
        self._settling = self._loop("settler", self.settler.once)
        self._reaping = self._loop("reaper", self.reaper.once)
        self._pruning = self._loop("pruner", pruner.once)
        self.settler.on_submit(self._settling.wake)

    def _loop(self, name: str, once: Any) -> Loop:
        return Loop(
            name,
            once,
            errors=self._plan.loop_errors,
            failed=self.renewal_failed,
            recovered=self.renewal_recovered,
        )

    # Start and stop

    async def start(self) -> None:
        """Return when the worker claims; or, with startup='wait', after 5 s if the database is away.

        Raises:
            SchemaError: the database's schema is not the one this pqlite needs.
            WorkerError: startup='fail', and the database cannot be reached.
        """
        await self._look_at_schema()
        self._unsubscribe = self._plan.store.on_enqueue(self.notified)
        self._sentinel.start()
        self._started = True
        self._tick()
        loops = [self._starting, self._claiming, self._settling, self._pruning]
        if self._plan.settings.enable_reaper:
            loops.append(self._reaping)
        for loop in loops:
            self._tasks[loop.name] = asyncio.create_task(loop.run(), name=f"pqlite {loop.name}")
        await self._unless_draining(self._registered.wait(), START_SECONDS if self._schema_seen else 0.0)
        if self._plan.startup == "fail" and not self._registered.is_set() and not self._drain.is_set():
            raise WorkerError(f"The worker could not register within {START_SECONDS:g} s.")

    async def _unless_draining(self, work: Coroutine[Any, Any, object], seconds: float) -> None:
        """Await work for so long, or until the worker is told to stop; raise what it raises."""
        task, drain = asyncio.create_task(work), asyncio.create_task(self._drain.wait())
        try:
            await asyncio.wait([task, drain], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            drain.cancel()
            task.cancel()

    async def _look_at_schema(self) -> None:
        try:
            await self._unless_draining(self._see_schema(), START_SECONDS)
        except SchemaError:
            raise
        except Exception as error:
            self._unreachable(error)
        else:
            if not self._schema_seen and not self._drain.is_set():
                self._unreachable(TimeoutError(f"no answer within {START_SECONDS:g} s"))

    async def _see_schema(self) -> None:
        await self._plan.store.check_schema()
        self._schema_seen = True

    def _unreachable(self, error: Exception) -> None:
        if self._plan.startup == "fail":
            raise WorkerError(f"The database cannot be reached: {error!r}") from error
        logger.warning("The database cannot be reached (%r); serving without a worker until it can.", error)

    async def _check_schema(self) -> float:
        """Check the schema, if the database was away at start, before anything is claimed."""
        if not self._schema_seen:
            await self._see_schema()
            self._claiming.wake()
        self._starting.stop()
        return 0.0

    async def stop(self, hurry: asyncio.Event) -> None:
        """Stop claiming, give attempts their grace, cancel them, write outcomes, say goodbye; within the timeout.

        `hurry` ends the grace, and leaves 3 seconds for the rest. Cut short by a cancellation, it can be called again.
        """
        if not self._started:
            return
        settings = self._plan.settings
        ends = time.monotonic() + settings.shutdown_timeout.total_seconds()
        reserve = min(5.0, settings.shutdown_timeout.total_seconds() * 0.4)
        if not self._stopping:
            self._stopping = True
            self._drain.set()
            self._unsubscribe()
            self._announce(WorkerStopping(self._plan.worker_id, len(self.executor.running)))
        for loop in (self._starting, self._reaping, self._pruning):
            loop.stop()
        await self._end(self._claiming, min(reserve, 3.0))

        grace = min(settings.shutdown_grace.total_seconds(), _left(ends) - reserve)
        if not await self._drained(grace, hurry):
            self.executor.cancel_all("shutdown")
            ends = min(ends, time.monotonic() + 3.0) if hurry.is_set() else ends
            await self._drained(_left(ends) - min(reserve, _left(ends) * 0.4))
        await self._end(self._settling, max(_left(ends) - 2.0, 0.5))
        await self.settler.flush(max(_left(ends) - 1.0, 0.5))
        await self._sentinel.stop(max(_left(ends), 0.5))

        for name in list(self._tasks):
            await self._finish(name, 0.5)
        self._ticking.cancel()
        await self._claims.link.close()
        await self._settles.link.close()
        self._announce(WorkerStopped(self._plan.worker_id, len(self.executor.running)))

    async def _drained(self, seconds: float, hurry: asyncio.Event | None = None) -> bool:
        """Wait until no attempt runs, for so long, or until there is a hurry; return whether none runs."""
        waiting: list[asyncio.Task[object]] = [asyncio.create_task(self.executor.drained())]
        if hurry is not None:
            waiting.append(asyncio.create_task(hurry.wait()))
        try:
            await asyncio.wait(waiting, timeout=max(seconds, 0.0), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        return not self.executor.running

    async def _end(self, loop: Loop, seconds: float) -> None:
        loop.stop()
        await self._finish(loop.name, seconds)

    async def _finish(self, name: str, seconds: float) -> None:
        task = self._tasks.pop(name, None)
        if task is None:
            return
        await asyncio.wait([task], timeout=seconds)
        task.cancel()
        await asyncio.wait([task])

    def _tick(self) -> None:
        self._sentinel.tick()
        if _server_stops():
            self._drain.set()
        self._ticking = asyncio.get_running_loop().call_later(TICK, self._tick)

    # What the parts tell each other

    def _room(self) -> int:
        if self._drain.is_set() or self.settler.full or not self._schema_seen:
            return 0
        return self.executor.free

    def _accept(self, job: Job) -> None:
        if self.executor.adopt(job) or (job.id, job.claims) in self.settler.undelivered:
            # A claim that a server crash undid, made again: its attempt, or its outcome, is still ours.
            return
        if self._drain.is_set() or self.claimer.holder != job.locked_by:
            self.settler.submit(Outcome(job, Verb.RELEASED))
        else:
            self.executor.start(job)

    def notified(self) -> None:
        """Look for jobs: somebody enqueued, or gave some back."""
        self.claimer.look()
        self._claiming.wake()

    def registered(self, holder: str) -> None:
        """Claim, and judge, as `holder`."""
        self.claimer.holder = self.reaper.holder = holder
        self._announce(WorkerRegistered(self._plan.worker_id, holder))
        self._registered.set()
        self.notified()
        self._reaping.wake()

    def fenced(self, holder: str, reason: str) -> None:
        """Stop everything that runs: others may take it over."""
        self.claimer.holder = self.reaper.holder = None
        self._registered.clear()
        self._announce(WorkerFenced(self._plan.worker_id, holder, reason))
        self.executor.cancel_all("lease")

    def cancel_requested(self, claims: list[tuple[int, int]]) -> None:
        """Stop attempts whose jobs somebody asked to cancel."""
        for job_id, number in claims:
            self.executor.cancel(job_id, number)

    def renewal_failed(self, name: str, error: Exception, failures: int) -> None:
        """A loop met an error."""
        self._announce(LoopFailed(self._plan.worker_id, name, error, failures))

    def renewal_recovered(self, name: str, failures: int) -> None:
        """A loop works again."""
        self._announce(LoopRecovered(self._plan.worker_id, name, failures))

    def blocked(self, seconds: float, stack: str) -> None:
        """The event loop turns again."""
        self._announce(LoopBlocked(self._plan.worker_id, seconds, stack))

    def trouble(self) -> str | None:
        """Return what is wrong, None if all is well."""
        if self._drain.is_set():
            return "the worker is stopping"
        for loop in (self._starting, self._claiming, self._settling, self._reaping, self._pruning):
            if loop.name in self._tasks and (reason := loop.trouble()):
                return reason
        return self._sentinel.trouble()


def _left(ends: float) -> float:
    return ends - time.monotonic()


def _server_stops() -> bool:
    """Return whether uvicorn has begun to stop. It says so to nobody, and ends the lifespan only after the last
    request; its signal handler is a method of the server, which has a flag.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(server, "should_exit", False) is True
