"""Builds the parts of one worker run and connects their callbacks. The parts do not import each other.

(Over 300 lines because all connections between the parts are in one place.)
"""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from pqlite.backoff import BackoffPolicy, IdlePollPolicy, LoopErrorPolicy
from pqlite.events import (
    JobAdopted,
    JobsClaimed,
    LoopBlocked,
    LoopFailed,
    LoopRecovered,
    WorkerFenced,
    WorkerRegistered,
)
from pqlite.events.announcer import Announcer
from pqlite.handlers import AnyHandler, Middleware, versions
from pqlite.job import Job
from pqlite.outcome import Outcome, Verb
from pqlite.schema import channel
from pqlite.settings import WorkerSettings
from pqlite.store.engine import Head
from pqlite.store.pg_schedules import PgSchedules
from pqlite.store.postgres import PgJobStore
from pqlite.store.statements import for_schema
from pqlite.worker.claimer import Claimer
from pqlite.worker.diagnosis import Diagnosis, LaneState
from pqlite.worker.executor import Executor
from pqlite.worker.lanes import Asked, Lanes
from pqlite.worker.maintenance import Maintenance
from pqlite.worker.pruner import Pruner
from pqlite.worker.reaper import Reaper
from pqlite.worker.scheduler import STATEMENT_SECONDS, Scheduler
from pqlite.worker.scout import MAX_DEADLINE, Scout
from pqlite.worker.sentinel import Sentinel
from pqlite.worker.settler import Settler
from pqlite.worker.single_pass import SinglePass
from pqlite.worker.supervisor import Loop, Untried

GATE = 1.0
"""How often the scout checks whether it may scan."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """The checked arguments of a Worker."""

    store: PgJobStore
    handlers: Mapping[str, AnyHandler]
    middleware: Sequence[Middleware]
    settings: WorkerSettings
    worker_id: str
    queues: Sequence[str] | None
    unknown_job_types: str
    startup: str
    idle: IdlePollPolicy
    backoff: BackoffPolicy
    loop_errors: LoopErrorPolicy
    announce: Announcer
    resources: Mapping[str, Any] = field(default_factory=dict)
    definitions: Sequence[Mapping[str, Any]] = ()


class Parts:
    """The parts of one run, and the listener of its sentinel.

    Jobs are claimed only while `may_claim` is set and `drain` is not.
    """

    def __init__(self, config: WorkerConfig, drain: asyncio.Event) -> None:
        self.config = config
        self.registered_now = asyncio.Event()
        self.may_claim = False
        self._drain = drain
        self._types = None if config.unknown_job_types == "fail" else list(config.handlers)
        self._versions = versions(config.handlers)
        self.claim_engine = config.store.engine("claimer")
        self.settle_engine = config.store.engine("settler")
        self.maintenance = Maintenance(config.store.engine("maintenance"))
        self.sentinel = Sentinel(
            make_engine=config.store.listening_engine,
            pooling=lambda: config.store.listen_pooling,
            label=config.worker_id,
            channel=channel(config.store.schema),
            lease=config.settings.lease,
            renew_every=config.settings.renew_every,
            info={
                "host": platform.node(),
                "pid": os.getpid(),
                "job_types": self._types,
                "payload_versions": self._versions,
                "queues": config.queues,
                "concurrency": config.settings.concurrency,
            },
            listener=self,
        )
        self.settler = Settler(
            engine=self.settle_engine,
            worker_id=config.worker_id,
            keep_done=config.settings.retain_done != timedelta(0),
            announce=config.announce,
            limit=4 * config.settings.concurrency + 500,
            has_room=lambda: self.claimer_loop.wake(),
            made_ready=self._made_ready,
            settled=config.store.look_again,
        )
        self.executor = Executor(
            handlers=config.handlers,
            middleware=config.middleware,
            resources=config.resources,
            store=config.store,
            worker_id=config.worker_id,
            concurrency=config.settings.concurrency,
            backoff=config.backoff,
            announce=config.announce,
            submit=self.settler.submit,
            want_more=lambda: self.claimer_loop.wake(),
        )
        self.lanes = Lanes()
        self.scout = Scout(lanes=self.lanes, scan=self._scan, found=lambda: self.claimer_loop.wake())
        self.claimer = Claimer(
            engine=self.claim_engine,
            worker_id=config.worker_id,
            queues=config.queues,
            types=self._types,
            versions=self._versions,
            idle=config.idle,
            announce=config.announce,
            lanes=self.lanes,
            capacity=self._capacity,
            held=lambda: [*self.executor.held, *(job_id for job_id, _ in self.settler.undelivered)],
            accept=self._accept,
            lease_lost=self.sentinel.renew_now,
            rescan=lambda: self.notified(everywhere=True),
            listens=lambda: self.sentinel.listens,
            start_audit=lambda: self.scout_loop.wake(),
        )
        self.reaper = Reaper(
            reap=lambda judge, limit: self.maintenance.run(lambda engine: engine.reap(judge, limit)),
            reap_stale=lambda after: self.maintenance.run(lambda engine: engine.reap_stale(after)),
            next_death=lambda judge: self.maintenance.run(lambda engine: engine.next_death(judge)),
            expire=lambda: self.maintenance.run(lambda engine: engine.expire()),
            worker_id=config.worker_id,
            stale_every=config.settings.reap_stale_every,
            stale_after=config.settings.default_stale_after,
            announce=config.announce,
            made_ready=lambda: self.notified(everywhere=True),
        )
        self.pruner = Pruner(
            prune=config.store.prune_chunk,
            done=config.settings.retain_done,
            failed=config.settings.retain_failed,
            worker_id=config.worker_id,
            announce=config.announce,
        )
        self.schedule_link = config.store.engine("scheduler").link
        self.scheduler = Scheduler(
            port=PgSchedules(
                partial(self.schedule_link.fetch, deadline=STATEMENT_SECONDS), for_schema(config.store.schema)
            ),
            definitions=config.definitions,
            worker_id=config.worker_id,
            announce=config.announce,
            fired=self.notified,
        )
        self.claimer_loop = self.loop("claimer", self.claimer.step)
        self.scout_loop = self.loop("scout", self._scout, overdue_after=2 * MAX_DEADLINE)
        self.settler_loop = self.loop("settler", self.settler.step)
        self.reaper_loop = self.loop("reaper", self.reaper.step)
        self.pruner_loop = self.loop("pruner", self.pruner.step)
        self.scheduler_loop = self.loop("scheduler", self.scheduler.step)
        self.settler.on_submit(self.settler_loop.wake)

    def single_pass(self) -> SinglePass:
        """Replace the claimer by a single pass over the due jobs, which sets `drain` at its end."""
        single_pass = SinglePass(
            engine=self.claim_engine,
            queues=self.config.queues,
            types=self._types,
            versions=self._versions,
            holder=lambda: self.claimer.holder,
            room=lambda: self._capacity(0.0)[0],
            running=lambda: bool(self.executor.running),
            undelivered=lambda: bool(self.settler.undelivered),
            refused=lambda: self.settler_loop.last_error,
            accept=self._accept,
            give_back=self.claimer.release_unknown,
            lease_lost=self.sentinel.renew_now,
            over=self._drain.set,
        )
        self.claimer_loop = self.loop("claimer", single_pass.step)
        return single_pass

    def diagnosis(self) -> Diagnosis:
        """Return the state of the parts."""
        return Diagnosis(
            holder=self.claimer.holder,
            running=len(self.executor.running),
            waiting=len(self.executor.waiting),
            undelivered=len(self.settler.undelivered),
            new_lanes_within=self.claimer.new_lanes_within,
            late_commits_within=self.scout.late_commits_within,
            anything_within=self.scout.anything_within,
            round_trip=self.claimer.round_trip,
            pace=self.executor.pace,
            pooling=self.config.store.pooling,
            hears=self.sentinel.listens,
            lanes=tuple(LaneState(*lane, mark.run_after, active) for lane, mark, active in self.lanes.states()),
        )

    def loop(self, name: str, step: Callable[[], Awaitable[float]], *, overdue_after: float = 60.0) -> Loop:
        """Return a supervised loop that calls a part's `step`."""
        return Loop(
            name,
            step,
            errors=self.config.loop_errors,
            failed=self.loop_failed,
            recovered=self.loop_recovered,
            overdue_after=overdue_after,
        )

    def _capacity(self, round_trip: float) -> tuple[int, int]:
        """Return how many jobs to claim: to start at once, and to prefetch."""
        if self._drain.is_set() or self.settler.full or not self.may_claim:
            return 0, 0
        return self.executor.free, self.executor.prefetch(round_trip)

    def _accept(self, jobs: Sequence[Job]) -> None:
        executor, settler, announce = self.executor, self.settler, self.config.announce
        new = []
        for job in jobs:
            # A server crash undid the job's claim: its attempt, or its outcome, is still here.
            if executor.adopt(job) or settler.adopt(job):
                announce(JobAdopted(self.config.worker_id, job))
            else:
                new.append(job)
        if new and announce.wanted:
            announce(JobsClaimed(self.config.worker_id, new))
        if self._drain.is_set() or (new and new[0].locked_by != self.claimer.holder):
            for job in new:
                settler.submit(Outcome(job, Verb.RELEASED))
        else:
            executor.accept(new)
        self._request_scan()

    async def _scout(self) -> float:
        if self.claimer.holder is None or not self.may_claim:
            return Untried(GATE)
        try:
            await self.maintenance.run(self.claimer.run_pending_audit)
        finally:  # a failing audit must not prevent scans
            pause = await self.scout.step()
        return pause

    async def _scan(self, starts: Asked, deadline: float) -> list[Head]:
        queues, types, versions = self.config.queues, self._types, self._versions
        return await self.maintenance.run(
            lambda engine: engine.lanes(queues, types, starts, versions=versions, deadline=deadline)
        )

    def _request_scan(self, everywhere: bool = False) -> None:
        if self.scout.request(everywhere=everywhere):
            self.scout_loop.wake()

    def _made_ready(self, outcomes: Sequence[Outcome]) -> None:
        """Claim jobs that these outcomes have made READY, or that may start because a suspect has ended.

        Released jobs keep their `run_after`, so they may be behind a watermark.
        """
        self.claimer_loop.wake()
        for outcome in outcomes:
            if outcome.job.crashes:  # a suspect is in no lane, so no scan says when it is due
                self.claimer_loop.wake_in(outcome.delay)
        if any(outcome.verb is Verb.RELEASED for outcome in outcomes):
            self._request_scan(everywhere=True)

    def notified(self, everywhere: bool = False) -> None:
        """Claim jobs that were enqueued; or given back, and so perhaps behind a watermark (`everywhere`)."""
        if self.claimer.wake_up() or everywhere:
            self.claimer_loop.wake()
        self._request_scan(everywhere)

    def paused(self) -> None:
        """Give back prefetched jobs: the next claim skips those that are paused."""
        self.executor.waiting.clear()

    def registered(self, holder: str) -> None:
        """Claim jobs, and take over those of dead workers, as `holder`."""
        self.claimer.holder = self.reaper.holder = holder
        self.config.announce(WorkerRegistered(self.config.worker_id, holder))
        self.registered_now.set()
        self.notified(everywhere=True)
        self.scout_loop.wake()
        self.reaper_loop.wake()
        self.scheduler.allowed = True
        self.scheduler_loop.wake()

    def fenced(self, holder: str, reason: str) -> None:
        """Stop all attempts, because others may take over their jobs."""
        self.claimer.holder = self.reaper.holder = None
        self.registered_now.clear()
        self.config.announce(WorkerFenced(self.config.worker_id, holder, reason))
        self.executor.cancel_all("lease")

    def cancel_requested(self, claims: list[tuple[int, int]]) -> None:
        """Stop the attempts of jobs that were asked to cancel."""
        for job_id, number in claims:
            self.executor.cancel(job_id, number)

    def schedule_due(self, seconds: float) -> None:
        """Fire the schedules at that time."""
        if self.scheduler.set_due(seconds):
            self.scheduler_loop.wake()

    def blocked(self, seconds: float, stack: str) -> None:
        """Announce that the event loop was blocked."""
        self.config.announce(LoopBlocked(self.config.worker_id, seconds, stack))

    def loop_failed(self, name: str, error: Exception, failures: int) -> None:
        """Announce that a loop failed."""
        self.config.announce(LoopFailed(self.config.worker_id, name, error, failures))

    def loop_recovered(self, name: str, failures: int) -> None:
        """Announce that a loop works again."""
        self.config.announce(LoopRecovered(self.config.worker_id, name, failures))
