"""The executor, call by call: who runs, who waits, and what is said of each, once."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from pqlite import BackoffPolicy, Job, JobContext, JobStatus
from pqlite.events import JobStopping, JobStuck
from pqlite.events.announcer import Announcer
from pqlite.outcome import Outcome, Verb
from pqlite.testing import EventLog, MemoryJobStore
from pqlite.worker import executor
from pqlite.worker.executor import Executor


def job(id: int, job_type: str = "t", **fields: Any) -> Job:
    given = {"id": id, "job_type": job_type, "run_after": datetime.now(UTC), "status": JobStatus.RUNNING}
    given |= {"payload": {}, "attempts": 1, "max_attempts": 5, "claims": 1, "crashes": 0, "locked_by": "me"}
    return Job(**dict.fromkeys(Job.__dataclass_fields__) | given | fields)  # type: ignore[arg-type]


class Desk:
    """An executor: `t` ends at once, `wait` when told to, `last` when told to though it was cancelled once."""

    def __init__(self, concurrency: int = 1) -> None:
        self.log = EventLog()
        self.announce = Announcer([self.log])
        self.go_on = asyncio.Event()
        self.begun: list[int] = []
        self.outcomes: list[Outcome] = []
        self.said: list[object] = []
        self.when_told: Callable[[], object] = lambda: None
        self.executor = Executor(
            handlers={"t": self._at_once, "wait": self._wait, "last": self._last, "exits": self._exits},
            middleware=(),
            resources={},
            store=MemoryJobStore(),
            worker_id="w",
            concurrency=concurrency,
            backoff=BackoffPolicy(),
            announce=self.announce,
            submit=self._submit,
            want_more=lambda: self.said.append("wanting"),
        )

    async def _at_once(self, ctx: JobContext) -> None:
        self.begun.append(ctx.job.id)

    async def _wait(self, ctx: JobContext) -> None:
        self.begun.append(ctx.job.id)
        await self.go_on.wait()

    async def _last(self, ctx: JobContext) -> None:
        self.begun.append(ctx.job.id)
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            await self.go_on.wait()

    async def _exits(self, _ctx: JobContext) -> None:
        raise GeneratorExit

    def _submit(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.said.append(outcome.job.id)
        self.when_told()

    @property
    def verbs(self) -> list[tuple[int, Verb]]:
        return [(outcome.job.id, outcome.verb) for outcome in self.outcomes]

    async def entered(self, count: int) -> None:
        """Return when so many attempts have begun."""
        while len(self.begun) < count:
            await asyncio.sleep(0)

    async def ended(self) -> None:
        """Return when nothing runs any more."""
        async with asyncio.timeout(5):
            await self.executor.drained()


@pytest.fixture
async def desk() -> Desk:
    return Desk()


async def test_jobs_start_in_the_order_of_their_claims_and_a_slot_that_the_next_takes_is_not_free(desk: Desk) -> None:
    free: list[int] = []
    desk.when_told = lambda: free.append(desk.executor.free)
    desk.executor.accept([job(1), job(2), job(3)])
    assert (desk.executor.free, desk.executor.held) == (0, [1, 2, 3])

    await desk.ended()

    assert desk.begun == [1, 2, 3]
    assert (free, desk.executor.free, desk.executor.held) == ([0, 0, 1], 1, [])


@pytest.mark.parametrize(("low_water", "said"), [(0, [1, 2, "wanting", 3]), (1, [1, "wanting", 2, 3])])
async def test_it_asks_for_more_once_when_few_enough_wait(desk: Desk, low_water: int, said: list[object]) -> None:
    desk.executor.waiting.low_water = low_water
    desk.executor.accept([job(1), job(2), job(3)])
    await desk.ended()
    assert desk.said == said

    desk.executor.prefetch(0.0)
    desk.executor.accept([job(4)])
    await desk.ended()
    assert desk.said == [*said, 4, "wanting"]


async def test_it_is_drained_when_the_last_has_ended_and_not_when_another_has() -> None:
    desk = Desk(concurrency=2)
    desk.executor.accept([job(1), job(2, "wait")])
    drained = asyncio.create_task(desk.executor.drained())
    await desk.entered(2)
    while not desk.outcomes:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not drained.done()

    desk.go_on.set()
    await desk.ended()
    assert desk.verbs == [(1, Verb.DONE), (2, Verb.DONE)]
    await drained


@pytest.mark.parametrize("waits", [False, True])
async def test_a_claim_made_again_goes_on_as_the_attempt_that_is_here(desk: Desk, waits: bool) -> None:
    desk.executor.accept([job(9, "wait")] * waits + [job(1, "wait")])
    assert not desk.executor.adopt(job(2))
    later = datetime.now(UTC)
    assert desk.executor.adopt(job(1, "wait", claims=2, attempts=3, crashes=1, locked_by="me anew", locked_at=later))

    desk.go_on.set()
    await desk.ended()

    [outcome] = [outcome for outcome in desk.outcomes if outcome.job.id == 1]
    assert outcome.verb is Verb.DONE
    assert (outcome.job.claims, outcome.job.attempts, outcome.job.crashes) == (2, 3, 1)
    assert (outcome.job.locked_by, outcome.job.locked_at) == ("me anew", later)


@pytest.mark.parametrize("committed", [False, True])
async def test_a_claim_of_a_job_that_has_completed_here_is_given_back_when_its_attempt_ends(
    desk: Desk, committed: bool
) -> None:
    first, second = job(1, "last"), job(1, "last", claims=2)
    desk.executor.accept([first])
    await desk.entered(1)
    if committed:
        first.status = JobStatus.DONE
    else:
        desk.executor.running[1].context._completed_on = True
    assert desk.executor.adopt(second)
    desk.executor.running[1].context._completed_on = False
    assert desk.outcomes == []

    desk.go_on.set()
    await desk.ended()

    assert [(outcome.job.claims, outcome.verb) for outcome in desk.outcomes] == [(1, Verb.DONE), (2, Verb.RELEASED)]


async def test_a_request_to_cancel_is_for_one_claim(desk: Desk) -> None:
    desk.executor.accept([job(1, "wait", claims=2), job(2, claims=2), job(3)])
    await desk.entered(1)
    for claims in (1, 3):
        desk.executor.cancel(1, claims)
        desk.executor.cancel(2, claims)
    desk.executor.cancel(4, 1)
    for _ in range(5):
        await asyncio.sleep(0)
    assert desk.outcomes == []

    desk.executor.cancel(2, 2)
    assert desk.verbs == [(2, Verb.CANCELLED)]
    assert desk.executor.held == [1, 3]
    desk.executor.cancel(1, 2)
    await desk.ended()
    assert desk.verbs == [(2, Verb.CANCELLED), (1, Verb.CANCELLED), (3, Verb.DONE)]
    assert desk.begun == [1, 3]


async def test_when_all_is_stopped_what_waits_or_has_not_begun_is_given_back_and_never_runs() -> None:
    desk = Desk(concurrency=2)
    desk.executor.accept([job(1, "wait"), job(2, "wait"), job(3)])
    desk.executor.cancel_all("shutdown")

    assert sorted(desk.verbs) == [(1, Verb.RELEASED), (2, Verb.RELEASED), (3, Verb.RELEASED)]
    await desk.ended()
    for _ in range(3):
        await asyncio.sleep(0)
    assert (desk.begun, len(desk.outcomes)) == ([], 3)


async def test_when_all_is_stopped_nothing_that_waited_takes_the_place_of_what_ran(desk: Desk) -> None:
    desk.executor.accept([job(1, "wait"), job(2)])
    await desk.entered(1)

    desk.executor.cancel_all("lease")
    await desk.ended()

    assert desk.verbs == [(2, Verb.RELEASED), (1, Verb.RELEASED)]
    assert desk.begun == [1]


async def test_an_attempt_is_stopped_once_and_for_the_first_reason(desk: Desk) -> None:
    desk.executor.accept([job(1, "wait")])
    await desk.entered(1)
    desk.executor.cancel(1, 1)
    desk.executor.cancel_all("shutdown")
    await desk.ended()

    assert desk.verbs == [(1, Verb.CANCELLED)]
    await desk.announce.finish()
    assert [event.reason for event in desk.log.of(JobStopping)] == ["cancel"]


async def test_a_handler_that_exits_as_a_generator_does_ends_its_attempt_like_any_other(desk: Desk) -> None:
    desk.executor.accept([job(1, "exits"), job(2)])
    await desk.ended()

    assert desk.verbs == [(1, Verb.RETRY), (2, Verb.DONE)]


async def test_a_timeout_does_not_outlive_its_attempt(desk: Desk) -> None:
    desk.executor.accept([job(1, timeout_seconds=0.2)])
    await desk.ended()
    desk.executor.accept([job(1, "wait", timeout_seconds=0.3)])
    await desk.ended()

    assert desk.verbs == [(1, Verb.DONE), (1, Verb.RETRY)]
    await desk.announce.finish()
    assert len(desk.log.of(JobStopping)) == 1


async def test_only_an_attempt_that_goes_on_in_spite_of_its_end_is_reported(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "STUCK_AFTER", 0.02)
    desk.executor.accept([job(1, "wait")])
    await desk.entered(1)
    desk.executor.cancel(1, 1)
    await desk.ended()
    desk.executor.accept([job(1, "last", claims=2)])
    await desk.entered(2)
    await asyncio.sleep(0.005)
    desk.executor.cancel(1, 2)

    stuck = await desk.log.wait_for(JobStuck)
    assert stuck.job.claims == 2
    desk.go_on.set()
    await desk.ended()


async def test_how_long_attempts_take_is_known_from_the_first_on_and_one_among_many_counts_little(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert desk.executor.pace is None
    for seconds in (1.0, 3.0):
        desk.executor.accept([job(1, "wait")])
        desk.executor.running[1].started -= seconds
        desk.go_on.set()
        await desk.ended()

    assert desk.executor.pace == pytest.approx(1.0 + executor.PACE_WEIGHT * 2.0, abs=0.1)
    assert [outcome.duration_ms // 1000 for outcome in desk.outcomes if outcome.duration_ms] == [1, 3]
