"""The parts of a worker, introduced to each other and not started: who passes on what to whom."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from pqlite import BackoffPolicy, IdlePollPolicy, Job, JobContext, JobStatus, LoopErrorPolicy, PgJobStore
from pqlite.events import JobAdopted, WorkerFenced
from pqlite.events.announcer import Announcer
from pqlite.job import TakenOver
from pqlite.outcome import Outcome, Verb
from pqlite.settings import WorkerSettings
from pqlite.store.engine import Head
from pqlite.testing import EventLog, jobs_of
from pqlite.worker.claimer import AUDIT_EVERY
from pqlite.worker.lanes import Asked
from pqlite.worker.parts import GATE, Parts, WorkerConfig
from pqlite.worker.supervisor import FOREVER, Loop


class Desk:
    """The parts of a worker with two slots that is registered as `me`; its handler goes on when told to."""

    def __init__(self, store: PgJobStore, unknown_job_types: str = "wait", **settings: Any) -> None:
        self.store, self.log = store, EventLog()
        self.announce = Announcer([self.log])
        self.drain, self.go_on = asyncio.Event(), asyncio.Event()
        self.begun: list[Job] = []
        config = WorkerConfig(
            store=store,
            handlers={"t": self._handler},
            middleware=(),
            settings=WorkerSettings(concurrency=2, **settings),
            worker_id="w",
            queues=None,
            unknown_job_types=unknown_job_types,
            startup="wait",
            idle=IdlePollPolicy(),
            backoff=BackoffPolicy(),
            loop_errors=LoopErrorPolicy(),
            announce=self.announce,
        )
        self.parts = Parts(config, self.drain)
        self.loops = self.parts.claimer_loop, self.parts.settler_loop, self.parts.scout_loop, self.parts.reaper_loop

    async def _handler(self, ctx: JobContext) -> None:
        self.begun.append(ctx.job)
        await self.go_on.wait()

    async def register(self, holder: str = "me") -> None:
        await self.parts.claim_engine.register(holder, "w", None, timedelta(seconds=20), {})
        self.parts.may_claim = True
        self.parts.registered(holder)
        self.asleep()

    def asleep(self) -> None:
        for loop in self.loops:
            loop._woken.clear()

    def woken(self) -> list[str]:
        """Name the loops that were woken since this was asked last."""
        woken = [loop.name for loop in self.loops if loop._woken.is_set()]
        self.asleep()
        return woken

    def looks(self) -> list[Asked]:
        """Return a list that grows with each of the scout's looks."""
        look, looks = self.parts.scout._scan, []

        async def counted(known: Asked, deadline: float) -> list[Head]:
            looks.append(known)
            return await look(known, deadline)

        self.parts.scout._scan = counted
        return looks

    async def enqueued(self, count: int = 1) -> list[int]:
        return [await self.store.enqueue("t") for _ in range(count)]

    async def running(self, count: int) -> None:
        """Claim, and return when so many attempts have begun."""
        await self.parts.claimer.step()
        await until_turns(lambda: len(self.begun) == count)

    async def statuses(self, ids: list[int]) -> list[str]:
        return [(await self.store.get(job_id)).status.value for job_id in ids]


async def until_turns(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def once(loop: Loop) -> float:
    return await loop._step()


@pytest.fixture
async def desk(store: PgJobStore) -> Desk:
    return Desk(store)


@pytest.mark.parametrize("why", ["may not claim", "drains", "is full"])
async def test_nothing_is_claimed_before_it_may_nor_while_it_stops_nor_while_too_many_outcomes_wait(
    desk: Desk, why: str
) -> None:
    await desk.register()
    await desk.enqueued()
    if why == "may not claim":
        desk.parts.may_claim = False
    elif why == "drains":
        desk.drain.set()
    else:
        desk.parts.settler._limit = 0

    assert await once(desk.parts.claimer_loop) == AUDIT_EVERY
    assert desk.parts.executor.held == []


async def test_an_audit_gives_back_no_job_that_runs_or_whose_outcome_is_still_to_be_written(desk: Desk) -> None:
    await desk.register()
    ids = await desk.enqueued(2)
    await desk.running(2)
    await desk.parts.claimer.release_unknown("me")
    assert await desk.statuses(ids) == ["RUNNING"] * 2
    desk.go_on.set()
    await until_turns(lambda: len(desk.parts.settler.undelivered) == 2)

    assert not desk.parts.settler.full
    await desk.parts.claimer.release_unknown("me")

    assert await desk.statuses(ids) == ["RUNNING"] * 2
    await once(desk.parts.settler_loop)
    assert await desk.statuses(ids) == ["DONE"] * 2


async def test_a_claim_made_again_starts_nothing_while_its_attempt_or_its_outcome_is_here(desk: Desk) -> None:
    await desk.register()
    [job_id] = await desk.enqueued()
    await desk.running(1)
    for _ in range(2):
        desk.parts._accept([await desk.store.get(job_id)])
        desk.go_on.set()
        await until_turns(lambda: bool(desk.parts.settler.undelivered))

    assert desk.parts.executor.held == []
    assert len(desk.begun) == 1
    await desk.announce.finish()
    assert len(desk.log.of(JobAdopted)) == 2


async def test_what_was_claimed_under_a_name_that_is_no_more_is_given_back_and_never_starts(desk: Desk) -> None:
    await desk.register("me, before")
    [job_id] = await desk.enqueued()
    claim = desk.parts.claim_engine.claim

    async def fenced_meanwhile(*args: Any, **options: Any) -> Any:
        answer = await claim(*args, **options)
        desk.parts.fenced("me, before", "why")
        await desk.register("me, anew")
        return answer

    desk.parts.claim_engine.claim = fenced_meanwhile  # type: ignore[method-assign]
    await once(desk.parts.claimer_loop)
    assert desk.parts.executor.held == []

    await once(desk.parts.settler_loop)
    job = await desk.store.get(job_id)
    assert (job.status, job.attempts, desk.begun) == (JobStatus.READY, 0, [])


async def test_what_was_claimed_while_the_worker_began_to_stop_is_given_back(desk: Desk) -> None:
    await desk.register()
    [job_id] = await desk.enqueued()
    claim = desk.parts.claim_engine.claim

    async def stops_meanwhile(*args: Any, **options: Any) -> Any:
        answer = await claim(*args, **options)
        desk.drain.set()
        return answer

    desk.parts.claim_engine.claim = stops_meanwhile  # type: ignore[method-assign]
    await once(desk.parts.claimer_loop)
    await once(desk.parts.settler_loop)

    job = await desk.store.get(job_id)
    assert (job.status, job.attempts, desk.begun) == (JobStatus.READY, 0, [])


async def test_a_fenced_worker_stops_what_runs_and_claims_and_judges_nothing(desk: Desk) -> None:
    await desk.register()
    ids = await desk.enqueued(2)
    await desk.running(2)
    desk.parts.fenced("me", "why")
    await desk.parts.executor.drained()

    assert await once(desk.parts.claimer_loop) == FOREVER
    assert (desk.parts.claimer.holder, desk.parts.reaper.holder) == (None, None)
    assert not desk.parts.registered_now.is_set()
    assert [outcome.verb for outcome in desk.parts.settler.undelivered.values()] == [Verb.RELEASED] * 2
    await once(desk.parts.settler_loop)
    assert await desk.statuses(ids) == ["READY"] * 2
    await desk.announce.finish()
    assert [(event.holder, event.reason) for event in desk.log.of(WorkerFenced)] == [("me", "why")]


async def test_with_a_name_everything_begins(desk: Desk) -> None:
    desk.parts.registered("me")

    assert desk.woken() == ["claimer", "scout", "reaper"]
    assert (desk.parts.claimer.holder, desk.parts.reaper.holder) == ("me", "me")
    assert desk.parts.registered_now.is_set()


async def test_the_scout_looks_for_nothing_that_may_not_be_claimed(desk: Desk) -> None:
    looks = desk.looks()
    desk.parts.may_claim = True
    assert await once(desk.parts.scout_loop) == GATE
    await desk.register()
    desk.parts.may_claim = False
    assert await once(desk.parts.scout_loop) == GATE
    assert looks == []

    desk.parts.may_claim = True
    await once(desk.parts.scout_loop)
    assert len(looks) == 1


async def test_an_audit_that_fails_keeps_the_scout_from_nothing(desk: Desk) -> None:
    await desk.register()
    looks = desk.looks()

    async def fail(_engine: Any) -> None:
        raise ConnectionResetError

    desk.parts.claimer.run_pending_audit = fail  # type: ignore[assignment, method-assign]
    with pytest.raises(ConnectionResetError):
        await once(desk.parts.scout_loop)

    assert len(looks) == 1


async def test_jobs_that_come_wake_the_claimer_and_those_given_back_the_scout_as_well(desk: Desk) -> None:
    await desk.register()
    await desk.parts.scout.step()
    desk.parts.notified()
    assert desk.woken() == ["claimer", "scout"]
    desk.parts.notified()
    assert desk.woken() == ["claimer"]
    desk.parts.notified(everywhere=True)
    assert desk.woken() == ["claimer", "scout"]


async def test_while_jobs_are_claimed_the_scout_looks_behind_them(desk: Desk) -> None:
    await desk.register()
    await once(desk.parts.claimer_loop)
    await desk.parts.scout.step()
    await desk.enqueued()
    desk.asleep()
    await once(desk.parts.claimer_loop)

    assert desk.woken() == ["scout"]


async def test_the_claimer_is_woken_for_what_the_scout_has_found_and_not_for_types_of_others(desk: Desk) -> None:
    await desk.register()
    await desk.store.enqueue("unknown")
    await once(desk.parts.scout_loop)
    assert desk.woken() == []

    await desk.enqueued()
    desk.parts.notified()
    desk.asleep()
    desk.parts.scout._back.earliest = 0.0
    await once(desk.parts.scout_loop)
    assert desk.woken() == ["claimer"]


async def test_on_a_new_connection_the_scout_looks_everywhere_and_makes_the_audits_that_become_due(desk: Desk) -> None:
    await desk.register()
    await desk.parts.scout.step()
    await once(desk.parts.claimer_loop)
    assert desk.woken() == ["claimer", "scout"]

    desk.parts.claimer._next_audit = 0.0
    await once(desk.parts.claimer_loop)
    assert desk.woken() == ["scout"]
    assert desk.parts.claimer._pending_audit is not None
    await once(desk.parts.scout_loop)
    assert desk.parts.claimer._pending_audit is None


async def test_a_claim_that_finds_its_worker_dead_makes_the_sentinel_renew(desk: Desk) -> None:
    desk.parts.sentinel._loop = asyncio.get_running_loop()
    desk.parts.sentinel._renewing = renewing = desk.parts.loop("sentinel", desk.parts.settler.step)
    desk.parts.may_claim = True
    desk.parts.registered("gone")
    await desk.enqueued()
    await once(desk.parts.claimer_loop)

    async with asyncio.timeout(5):
        await renewing._woken.wait()


async def test_of_two_suspects_one_is_run_at_a_time(desk: Desk) -> None:
    ids = await desk.enqueued(2)
    await desk.register("victim")
    await desk.running(2)
    desk.parts.fenced("victim", "why")
    await desk.parts.executor.drained()
    desk.parts.settler.undelivered.clear()  # they never arrive
    await desk.parts.claim_engine.unregister("victim")
    assert len(await desk.parts.claim_engine.reap("nobody")) == 2

    await desk.register()
    for _ in range(3):
        await once(desk.parts.claimer_loop)
    assert sorted(await desk.statuses(ids)) == ["READY", "RUNNING"]
    desk.go_on.set()
    await desk.parts.executor.drained()


async def test_what_the_reaper_takes_over_is_looked_for_everywhere(desk: Desk) -> None:
    await desk.register()
    await desk.parts.scout.step()
    taken = TakenOver(id=1, job_type="t", queue="default", status=JobStatus.READY, attempts=1, locked_by="victim")

    async def next_death(_judge: str) -> float:
        return 0.0

    async def reap(_judge: str, _limit: int) -> list[TakenOver]:
        return [taken]

    desk.parts.reaper._next_death, desk.parts.reaper._reap = next_death, reap
    desk.asleep()
    await once(desk.parts.reaper_loop)
    assert desk.woken() == ["claimer", "scout"]


async def test_a_deaf_worker_is_woken_for_what_was_given_back_and_for_nothing_else(desk: Desk) -> None:
    await desk.register()
    desk.parts.claimer._wakeups._ignore_until = float("inf")
    await desk.parts.scout.step()
    desk.parts.notified()
    assert desk.woken() == ["scout"]
    desk.parts.notified(everywhere=True)
    assert desk.woken() == ["claimer", "scout"]


@pytest.mark.parametrize(("verb", "woken"), [(Verb.RELEASED, ["claimer", "scout"]), (Verb.RETRY, ["claimer"])])
async def test_what_the_worker_itself_gives_back_is_looked_for(desk: Desk, verb: Verb, woken: list[str]) -> None:
    await desk.register()
    await desk.enqueued()
    await desk.running(1)
    await desk.parts.scout.step()
    desk.parts.settler.submit(Outcome(desk.begun[0], verb, delay=60.0))
    desk.asleep()

    await once(desk.parts.settler_loop)
    assert desk.woken() == woken


async def test_a_free_slot_and_room_for_outcomes_wake_the_claimer_and_an_outcome_the_settler(desk: Desk) -> None:
    await desk.register()
    await desk.enqueued(2)
    await desk.running(2)
    desk.parts.settler._limit = 2
    desk.asleep()
    desk.go_on.set()
    await desk.parts.executor.drained()
    assert desk.woken() == ["claimer", "settler"]

    await once(desk.parts.settler_loop)
    assert desk.woken() == ["claimer"]


async def test_a_request_to_cancel_reaches_the_attempt_of_that_claim(desk: Desk) -> None:
    await desk.register()
    await desk.enqueued(2)
    await desk.running(2)
    first, second = desk.begun
    desk.parts.cancel_requested([(first.id, first.claims), (second.id, second.claims + 1)])
    await until_turns(lambda: bool(desk.parts.settler.undelivered))

    assert [outcome.verb for outcome in desk.parts.settler.undelivered.values()] == [Verb.CANCELLED]
    assert desk.parts.executor.held == [second.id]
    desk.go_on.set()
    await desk.parts.executor.drained()


@pytest.mark.parametrize(("retain", "kept"), [(timedelta(0), 0), (None, 1)])
async def test_done_jobs_are_kept_unless_they_are_to_be_kept_for_no_time(
    desk: Desk, retain: timedelta | None, kept: int
) -> None:
    other = Desk(desk.store, retain_done=retain)
    await other.register()
    await other.enqueued()
    await other.running(1)
    other.go_on.set()
    await other.parts.executor.drained()
    await once(other.parts.settler_loop)

    assert len(await jobs_of(desk.store)) == kept


@pytest.mark.parametrize(("unknown", "held"), [("wait", 0), ("fail", 1)])
async def test_only_types_that_are_known_are_claimed_unless_unknown_ones_are_to_fail(
    desk: Desk, unknown: str, held: int
) -> None:
    other = Desk(desk.store, unknown)
    await other.register()
    await desk.store.enqueue("unknown")
    await once(other.parts.claimer_loop)
    assert len(other.parts.executor.held) == held
    await other.parts.executor.drained()
    assert [outcome.verb for outcome in other.parts.settler.undelivered.values()] == [Verb.FAILED] * held
