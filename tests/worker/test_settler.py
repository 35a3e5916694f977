"""The settler, call by call: who is told, who is woken, and in whose name an outcome is offered."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import asyncpg
import pytest

from pqlite import Job, JobStatus, PgJobStore
from pqlite.events import JobSettled, OutcomeRefused
from pqlite.events.announcer import Announcer
from pqlite.outcome import Outcome, Verb
from pqlite.store.engine import Engine, SettleAnswer
from pqlite.testing import EventLog
from pqlite.worker import settler
from pqlite.worker.settler import BUSY_PAUSE, Settler
from pqlite.worker.supervisor import FOREVER
from tests.conformance.scene import locked
from tests.store.workers import RegisteredWorker


class Desk:
    """A settler, and whom it calls."""

    def __init__(self, store: PgJobStore, limit: int) -> None:
        self.log = EventLog()
        self.announce = Announcer([self.log])
        self.wakes = self.rooms = 0
        self.told: list[int] = []
        self.made_ready: list[list[Outcome]] = []
        self.settler = Settler(
            engine=store.engine("settler"),
            worker_id="w",
            keep_done=True,
            announce=self.announce,
            limit=limit,
            has_room=self._room,
            made_ready=self.made_ready.append,
            settled=self.told.extend,
        )
        self.settler.on_submit(self._wake)

    def _room(self) -> None:
        self.rooms += 1

    def _wake(self) -> None:
        self.wakes += 1


@pytest.fixture
def desk(store: PgJobStore) -> Desk:
    return Desk(store, limit=3)


async def claimed(store: PgJobStore, count: int, holder: str = "me") -> list[Job]:
    """Return jobs that a worker of that name has just claimed."""
    worker = RegisteredWorker(store.engine("test"), holder)
    await worker.engine.register(holder, "worker", None, timedelta(seconds=20), {})
    await store.enqueue_many([{"job_type": "t"}] * count)
    return await worker.claim()


async def test_an_outcome_that_was_committed_already_is_told_and_not_offered(store: PgJobStore, desk: Desk) -> None:
    [job] = await claimed(store, 1)
    desk.settler.submit(Outcome(job, Verb.DONE, committed=True))

    assert (desk.settler.undelivered, desk.told, desk.wakes) == ({}, [job.id], 0)
    await desk.announce.finish()
    assert [event.outcome.job.id for event in desk.log.of(JobSettled)] == [job.id]


async def test_each_outcome_is_offered_in_the_name_that_its_claim_was_made_in(store: PgJobStore, desk: Desk) -> None:
    [first], [second] = await claimed(store, 1, "me"), await claimed(store, 1, "me, registered anew")
    desk.settler.submit(Outcome(first, Verb.DONE))
    desk.settler.submit(Outcome(second, Verb.DONE))

    assert await desk.settler.step() == 0.0
    assert await desk.settler.step() == FOREVER

    assert [(await store.get(job.id)).status for job in (first, second)] == [JobStatus.DONE] * 2
    await desk.announce.finish()
    assert desk.log.of(OutcomeRefused) == []


async def test_no_more_than_a_batch_is_written_at_once(
    store: PgJobStore, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "BATCH", 2)
    for job in await claimed(store, 3):
        desk.settler.submit(Outcome(job, Verb.DONE))

    assert await desk.settler.step() == 0.0
    assert len(desk.settler.undelivered) == 1
    assert len(desk.told) == 2


async def test_what_is_to_be_claimed_again_is_told_once_it_is_written_and_nothing_else_is(
    store: PgJobStore, desk: Desk
) -> None:
    verbs = [Verb.RETRY, Verb.SNOOZED, Verb.RELEASED, Verb.DONE, Verb.FAILED, Verb.CANCELLED]
    for job, verb in zip(await claimed(store, 6), verbs, strict=True):
        desk.settler.submit(Outcome(job, verb))
    fenced = await claimed(store, 1, "another")
    desk.settler.submit(Outcome(replace(fenced[0], claims=7), Verb.RETRY))
    assert desk.made_ready == []

    while await desk.settler.step() == 0.0:
        pass

    assert [[outcome.verb for outcome in outcomes] for outcomes in desk.made_ready] == [verbs[:3]]


async def test_one_that_is_locked_goes_behind_the_others(
    store: PgJobStore, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "BATCH", 1)
    first, second = await claimed(store, 2)
    desk.settler.submit(Outcome(first, Verb.DONE))
    desk.settler.submit(Outcome(second, Verb.DONE))

    async with locked(store, first.id):
        for _ in range(2):
            await desk.settler.step()

    assert (await store.get(second.id)).status is JobStatus.DONE


async def test_without_observers_the_log_hears_of_what_did_not_go_well(store: PgJobStore, desk: Desk) -> None:
    done, failed = await claimed(store, 2)
    heard = EventLog()
    desk.settler._announce = Announcer(log=heard)
    desk.settler.submit(Outcome(done, Verb.DONE))
    desk.settler.submit(Outcome(failed, Verb.FAILED, error="x"))

    await desk.settler.step()

    assert [event.outcome.job.id for event in heard.of(JobSettled)] == [failed.id]


async def test_while_all_that_is_left_is_locked_it_rests_and_is_woken_by_the_next(
    store: PgJobStore, desk: Desk
) -> None:
    first, second, third = await claimed(store, 3)
    desk.settler.submit(Outcome(first, Verb.DONE))
    desk.settler.submit(Outcome(second, Verb.DONE))
    assert desk.wakes == 1  # for the second it goes on by itself
    async with locked(store, first.id):
        assert await desk.settler.step() == 0.0
        assert await desk.settler.step() == BUSY_PAUSE
        assert [*desk.settler.undelivered] == [(first.id, first.claims)]
        desk.settler.submit(Outcome(third, Verb.DONE))
        assert desk.wakes == 2

    await desk.settler.step()
    assert [(await store.get(job.id)).status for job in (first, second, third)] == [JobStatus.DONE] * 3


async def test_room_is_told_of_once_when_enough_has_been_written(store: PgJobStore, desk: Desk) -> None:
    for count, rooms in ((2, 0), (3, 1)):
        for job in await claimed(store, count, f"me, {count}"):
            desk.settler.submit(Outcome(job, Verb.DONE))
        assert desk.settler.full == (rooms == 1)

        await desk.settler.step()

        assert (desk.settler.full, desk.rooms) == (False, rooms)


async def test_the_outcome_of_a_claim_that_was_undone_is_offered_for_the_same_claim_made_again(
    store: PgJobStore, desk: Desk
) -> None:
    [job] = await claimed(store, 1)
    desk.settler.submit(Outcome(job, Verb.DONE, result="1"))
    again, other = await store.get(job.id), await store.get(job.id)
    other.claims += 1

    assert desk.settler.adopt(again)
    assert not desk.settler.adopt(other)

    assert desk.wakes == 2
    [outcome] = desk.settler.undelivered.values()
    assert outcome.job is again
    assert outcome.result == "1"


class Meanwhile:
    """The engine's `settle`, and what happens during it, one act after the other."""

    def __init__(self, engine: Engine, *acts: Callable[[], object]) -> None:
        self._engine = engine
        self._acts = list(acts)

    async def settle(self, holder: str, outcomes: Sequence[Outcome], *, keep_done: bool = True) -> list[SettleAnswer]:
        if self._acts:
            self._acts.pop(0)()
        return await self._engine.settle(holder, outcomes, keep_done=keep_done)


def happens(desk: Desk, *acts: Callable[[], object]) -> None:
    desk.settler._engine = cast(Any, Meanwhile(desk.settler._engine, *acts))


def refuse() -> None:
    raise asyncpg.CheckViolationError("a constraint of the user's")


def lose() -> None:
    raise ConnectionResetError


async def test_an_outcome_whose_claim_is_made_again_while_it_is_written_is_offered_once_more(
    store: PgJobStore, desk: Desk
) -> None:
    [job] = await claimed(store, 1)
    again = await store.get(job.id)
    desk.settler.submit(Outcome(job, Verb.DONE))
    happens(desk, lambda: desk.settler.adopt(again))

    await desk.settler.step()

    assert [outcome.job for outcome in desk.settler.undelivered.values()] == [again]


async def test_a_connection_that_is_lost_among_refusals_makes_no_outcome_a_failure(
    store: PgJobStore, desk: Desk
) -> None:
    [job] = await claimed(store, 1)
    desk.settler.submit(Outcome(job, Verb.DONE, result="1"))
    happens(desk, refuse, lose)

    with pytest.raises(ConnectionResetError):
        await desk.settler.step()
    await desk.settler.step()

    kept = await store.get(job.id)
    assert (kept.status, kept.result) == (JobStatus.DONE, 1)


async def test_what_cannot_even_fail_is_an_error_so_that_it_is_offered_less_often(
    store: PgJobStore, desk: Desk
) -> None:
    [job] = await claimed(store, 1)
    desk.settler.submit(Outcome(job, Verb.DONE, result="1"))
    happens(desk, *[refuse] * 4)

    await desk.settler.step()
    with pytest.raises(asyncpg.CheckViolationError):
        await desk.settler.step()

    [outcome] = desk.settler.undelivered.values()
    assert (outcome.verb, outcome.result) == (Verb.FAILED, None)


async def test_a_last_flush_says_how_many_outcomes_could_not_be_written(store: PgJobStore, desk: Desk) -> None:
    first, second = await claimed(store, 2)
    desk.settler.submit(Outcome(first, Verb.DONE))
    desk.settler.submit(Outcome(second, Verb.DONE))

    await desk.settler._engine.link.connect(5.0)
    async with locked(store, first.id):
        assert await desk.settler.flush(0.3) == 1
    async with asyncio.timeout(5):  # it ends when nothing is left to write
        assert await desk.settler.flush(3600.0) == 0


async def test_a_last_flush_without_a_database_is_an_error_of_nobodys(store: PgJobStore, desk: Desk) -> None:
    [job] = await claimed(store, 1)
    desk.settler.submit(Outcome(job, Verb.DONE))
    nowhere = PgJobStore(dsn="postgresql://127.0.0.1:1/nothing").engine("settler")
    there, desk.settler._engine = desk.settler._engine, nowhere

    assert await desk.settler.flush(0.05) == 1

    desk.settler._engine = there
    assert await desk.settler.flush(5.0) == 0
    await nowhere.link.close()
