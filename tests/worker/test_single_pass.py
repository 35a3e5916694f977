"""A single pass, call by call: what it does when the worker's name, its room or the database is away."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from pqlite import Job, LeaseLost, PgJobStore
from pqlite.store.engine import Engine
from pqlite.worker import single_pass
from pqlite.worker.single_pass import SinglePass
from pqlite.worker.supervisor import FOREVER


class Pass:
    """A pass, and what it sees of its worker."""

    def __init__(self, engine: Engine) -> None:
        self.holder: str | None = "me"
        self.room = 5
        self.running = False
        self.undelivered: Callable[[], bool] = lambda: False
        self.accepted: list[Job] = []
        self.lost = self.over = 0
        self.refused: Exception | None = None
        self.asked_to_give_back: list[str] = []
        self.pass_ = SinglePass(
            engine=engine,
            queues=None,
            types=["t"],
            versions={"t": 1},
            holder=lambda: self.holder,
            room=lambda: self.room,
            running=lambda: self.running,
            undelivered=lambda: self.undelivered(),
            refused=lambda: self.refused,
            accept=self.accepted.extend,
            give_back=self._give_back,
            lease_lost=self._lost,
            over=self._over,
        )

    async def _give_back(self, holder: str) -> None:
        self.asked_to_give_back.append(holder)

    def _lost(self) -> None:
        self.lost += 1

    def _over(self) -> None:
        self.over += 1


@pytest.fixture
async def store(store: PgJobStore) -> PgJobStore:
    await store.engine("test").register("me", "worker", None, timedelta(seconds=20), {})
    return store


@pytest.fixture
def single(store: PgJobStore) -> Pass:
    return Pass(store.engine("test"))


async def test_without_a_registration_it_waits_for_one_but_not_for_ever(
    store: PgJobStore, single: Pass, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.enqueue("t")
    single.holder = None

    assert 0 < await single.pass_.step() < FOREVER
    assert (single.over, single.accepted) == (0, [])

    monkeypatch.setattr(single_pass, "AWAY_SECONDS", 0.0)
    await single.pass_.step()
    assert single.over == 1
    assert isinstance(single.pass_.error, LeaseLost)


async def test_a_name_that_is_no_more_is_told_and_is_neither_an_error_nor_the_end(
    store: PgJobStore, single: Pass
) -> None:
    await store.enqueue("t")
    single.holder = "gone"

    assert 0 < await single.pass_.step() < FOREVER
    assert (single.lost, single.over, single.pass_.error) == (1, 0, None)

    single.holder = "me"
    assert await single.pass_.step() == 0.0
    assert [job.job_type for job in single.accepted] == ["t"]


async def test_without_room_it_does_not_look_until_it_is_woken(store: PgJobStore, single: Pass) -> None:
    await store.enqueue("t")
    single.room, single.running = 0, True

    assert await single.pass_.step() == FOREVER
    assert (single.accepted, single.over) == ([], 0)


async def test_outcomes_that_leave_no_room_and_are_refused_end_it_in_time_unless_attempts_run(
    single: Pass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single_pass, "AWAY_SECONDS", 0.0)
    single.room, single.running, single.undelivered = 0, True, lambda: True
    single.refused = OSError("no")

    assert await single.pass_.step() < FOREVER
    assert single.over == 0

    single.running = False
    await single.pass_.step()
    assert (single.over, single.pass_.error) == (1, single.refused)


async def test_an_outcome_that_was_written_during_a_look_is_looked_after(single: Pass) -> None:
    was_there = [True, False]
    single.undelivered = lambda: was_there.pop(0) if was_there else False

    assert await single.pass_.step() == 0.0
    assert single.over == 0

    await single.pass_.step()
    assert single.over == 1


async def test_a_database_that_is_away_ends_it_when_it_was_away_for_too_long_without_a_break(
    store: PgJobStore, single: Pass, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = PgJobStore(dsn="postgresql://127.0.0.1:1/nothing").engine("test")
    there, single.pass_._engine = single.pass_._engine, nowhere

    with pytest.raises(OSError):
        await single.pass_.step()
    assert single.over == 0

    monkeypatch.setattr(single_pass, "AWAY_SECONDS", 0.0)
    with pytest.raises(OSError):
        await single.pass_.step()
    assert single.over == 1
    assert isinstance(single.pass_.error, OSError)

    await store.enqueue("t")
    single.pass_._engine = there
    assert await single.pass_.step() == 0.0
    assert single.pass_._away_since is None
    await nowhere.link.close()


async def test_payloads_that_are_too_new_are_left_alone(store: PgJobStore, single: Pass) -> None:
    await store.enqueue("t", 1)
    await store.enqueue("t", 2, metadata={"payload_version": 2})

    await single.pass_.step()
    assert [job.payload for job in single.accepted] == [1]

    await single.pass_.step()
    assert single.over == 1
