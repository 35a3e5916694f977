"""The parts of one run of a worker, introduced to each other: who tells whom what. They import none of each other."""

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
from pqlite.worker.once import Once
from pqlite.worker.pruner import Pruner
from pqlite.worker.reaper import Reaper
from pqlite.worker.scheduler import STATEMENT_SECONDS, Scheduler
from pqlite.worker.scout import PATIENCE_AT_MOST, Scout
from pqlite.worker.sentinel import Sentinel
from pqlite.worker.settler import Settler
from pqlite.worker.supervisor import Loop, Untried

GATE = 1.0
"""How often the scout looks whether it may look for jobs by now."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a worker is to run, and how."""

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
    """The parts of one run. It is also what the sentinel talks to.

    Nothing is claimed before `may_claim` is set, nor after `drain` is.
    """

    def __init__(self, plan: Plan, drain: asyncio.Event) -> None:
        self.plan = plan
        self.registered_now = asyncio.Event()
        self.may_claim = False
        self._drain = drain
        self._types = None if plan.unknown_job_types == "fail" else list(plan.handlers)
        self._versions = versions(plan.handlers)
        self.claim_engine = plan.store.engine("claimer")
        self.settle_engine = plan.store.engine("settler")
        self.maintenance = Maintenance(plan.store.engine("maintenance"))
        self.sentinel = Sentinel(
            make_engine=plan.store.listening_engine,
            pooling=lambda: plan.store.listen_pooling,
            label=plan.worker_id,
            channel=channel(plan.store.schema),
            lease=plan.settings.lease,
            renew_every=plan.settings.renew_every,
            info={
                "host": platform.node(),
                "pid": os.getpid(),
                "job_types": self._types,
                "payload_versions": self._versions,
                "queues": plan.queues,
                "concurrency": plan.settings.concurrency,
            },
            listener=self,
        )
        self.settler = Settler(
            engine=self.settle_engine,
            worker_id=plan.worker_id,
            keep_done=plan.settings.retain_done != timedelta(0),
            announce=plan.announce,
            limit=4 * plan.settings.concurrency + 500,
            has_room=lambda: self.claiming.wake(),
            put_back=self._put_back,
            settled=plan.store.look_again,
        )
        self.executor = Executor(
            handlers=plan.handlers,
            middleware=plan.middleware,
            resources=plan.resources,
            store=plan.store,
            worker_id=plan.worker_id,
            concurrency=plan.settings.concurrency,
            backoff=plan.backoff,
            announce=plan.announce,
            submit=self.settler.submit,
            wanting=lambda: self.claiming.wake(),
        )
        self.lanes = Lanes()
        self.scout = Scout(lanes=self.lanes, look=self._look, found=lambda: self.claiming.wake())
        self.claimer = Claimer(
            engine=self.claim_engine,
            worker_id=plan.worker_id,
            queues=plan.queues,
            types=self._types,
            versions=self._versions,
            idle=plan.idle,
            announce=plan.announce,
            lanes=self.lanes,
            capacity=self._capacity,
            held=lambda: [*self.executor.held, *(job_id for job_id, _ in self.settler.undelivered)],
            accept=self._accept,
            lost=self.sentinel.hurry,
            look_everywhere=lambda: self.notified(everywhere=True),
            hears=lambda: self.sentinel.hears,
            audit=lambda: self.scouting.wake(),
        )
        self.reaper = Reaper(
            reap=lambda judge, limit: self.maintenance.run(lambda engine: engine.reap(judge, limit)),
            reap_stale=lambda after: self.maintenance.run(lambda engine: engine.reap_stale(after)),
            next_death=lambda judge: self.maintenance.run(lambda engine: engine.next_death(judge)),
            worker_id=plan.worker_id,
            stale_every=plan.settings.reap_stale_every,
            stale_after=plan.settings.default_stale_after,
            announce=plan.announce,
            given_back=lambda: self.notified(everywhere=True),
        )
        self.pruner = Pruner(
            prune=plan.store.prune,
            done=plan.settings.retain_done,
            failed=plan.settings.retain_failed,
            worker_id=plan.worker_id,
            announce=plan.announce,
        )
        self.schedule_link = plan.store.engine("scheduler").link
        self.scheduler = Scheduler(
            port=PgSchedules(
                partial(self.schedule_link.fetch, deadline=STATEMENT_SECONDS), for_schema(plan.store.schema)
            ),
            definitions=plan.definitions,
            worker_id=plan.worker_id,
            announce=plan.announce,
            fired=self.notified,
        )
        self.claiming = self.loop("claimer", self.claimer.once)
        self.scouting = self.loop("scout", self._scout, overdue_after=2 * PATIENCE_AT_MOST)
        self.settling = self.loop("settler", self.settler.once)
        self.reaping = self.loop("reaper", self.reaper.once)
        self.pruning = self.loop("pruner", self.pruner.once)
        self.scheduling = self.loop("scheduler", self.scheduler.once)
        self.settler.on_submit(self.settling.wake)

    def once(self) -> Once:
        """Let a single pass over what is due take the claimer's place; it begins to stop the worker at its end."""
        once = Once(
            engine=self.claim_engine,
            queues=self.plan.queues,
            types=self._types,
            versions=self._versions,
            holder=lambda: self.claimer.holder,
            room=lambda: self._capacity(0.0)[0],
            running=lambda: bool(self.executor.running),
            undelivered=lambda: bool(self.settler.undelivered),
            refused=lambda: self.settling.last_error,
            accept=self._accept,
            give_back=self.claimer.give_back_unknown,
            lost=self.sentinel.hurry,
            over=self._drain.set,
        )
        self.claiming = self.loop("claimer", once.once)
        return once

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
            pooling=self.plan.store.pooling,
            hears=self.sentinel.hears,
            lanes=tuple(LaneState(*lane, mark.run_after, active) for lane, mark, active in self.lanes.states()),
        )

    def loop(self, name: str, once: Callable[[], Awaitable[float]], *, overdue_after: float = 60.0) -> Loop:
        """Return a supervised loop around a part's `once`."""
        return Loop(
            name,
            once,
            errors=self.plan.loop_errors,
            failed=self.loop_failed,
            recovered=self.loop_recovered,
            overdue_after=overdue_after,
        )

    def _capacity(self, round_trip: float) -> tuple[int, int]:
        """Return how many jobs to claim: to start now, and to let wait in memory for a slot."""
        if self._drain.is_set() or self.settler.full or not self.may_claim:
            return 0, 0
        return self.executor.free, self.executor.prefetch(round_trip)

    def _accept(self, jobs: Sequence[Job]) -> None:
        executor, settler, announce = self.executor, self.settler, self.plan.announce
        new = []
        for job in jobs:
            # A claim that a server crash undid, made again: its attempt, or its outcome, is still ours.
            if executor.adopt(job) or settler.adopt(job):
                announce(JobAdopted(self.plan.worker_id, job))
            else:
                new.append(job)
        if new and announce.wanted:
            announce(JobsClaimed(self.plan.worker_id, new))
        if self._drain.is_set() or (new and new[0].locked_by != self.claimer.holder):
            for job in new:
                settler.submit(Outcome(job, Verb.RELEASED))
        else:
            executor.accept(new)
        self._stir()

    async def _scout(self) -> float:
        if self.claimer.holder is None or not self.may_claim:
            return Untried(GATE)
        try:
            await self.maintenance.run(self.claimer.audit_aside)
        finally:  # also if that fails: the two must not keep each other from being done
            pause = await self.scout.once()
        return pause

    async def _look(self, known: Asked, deadline: float) -> list[Head]:
        queues, types, versions = self.plan.queues, self._types, self._versions
        return await self.maintenance.run(
            lambda engine: engine.lanes(queues, types, known, versions=versions, deadline=deadline)
        )

    def _stir(self, everywhere: bool = False) -> None:
        if self.scout.stir(everywhere=everywhere):
            self.scouting.wake()

    def _put_back(self, outcomes: Sequence[Outcome]) -> None:
        """Look for jobs that these outcomes have made READY, or that may start now that fewer suspects run. Those that
        were released keep their place.
        """
        self.claiming.wake()
        for outcome in outcomes:
            if outcome.job.crashes:  # in no lane, so no look says when a suspect is due
                self.claiming.wake_in(outcome.delay)
        if any(outcome.verb is Verb.RELEASED for outcome in outcomes):
            self._stir(everywhere=True)

    def notified(self, everywhere: bool = False) -> None:
        """Look for jobs: somebody enqueued; or gave some back (`everywhere`)."""
        if self.claimer.look() or everywhere:
            self.claiming.wake()
        self._stir(everywhere)

    def registered(self, holder: str) -> None:
        """Claim, and judge, as `holder`."""
        self.claimer.holder = self.reaper.holder = holder
        self.plan.announce(WorkerRegistered(self.plan.worker_id, holder))
        self.registered_now.set()
        self.notified(everywhere=True)
        self.scouting.wake()
        self.reaping.wake()
        self.scheduler.allowed = True
        self.scheduling.wake()

    def fenced(self, holder: str, reason: str) -> None:
        """Stop everything that runs: others may take it over."""
        self.claimer.holder = self.reaper.holder = None
        self.registered_now.clear()
        self.plan.announce(WorkerFenced(self.plan.worker_id, holder, reason))
        self.executor.cancel_all("lease")

    def cancel_requested(self, claims: list[tuple[int, int]]) -> None:
        """Stop attempts whose jobs somebody asked to cancel."""
        for job_id, number in claims:
            self.executor.cancel(job_id, number)

    def schedule_due(self, seconds: float) -> None:
        """Look at the schedules then."""
        if self.scheduler.soonest(seconds):
            self.scheduling.wake()

    def blocked(self, seconds: float, stack: str) -> None:
        """The event loop turns again."""
        self.plan.announce(LoopBlocked(self.plan.worker_id, seconds, stack))

    def loop_failed(self, name: str, error: Exception, failures: int) -> None:
        """A loop met an error."""
        self.plan.announce(LoopFailed(self.plan.worker_id, name, error, failures))

    def loop_recovered(self, name: str, failures: int) -> None:
        """A loop works again."""
        self.plan.announce(LoopRecovered(self.plan.worker_id, name, failures))
