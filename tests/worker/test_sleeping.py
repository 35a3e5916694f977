"""A claimer that goes to sleep has looked after it asked to be notified."""

import asyncio
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from pqlite import IdlePollPolicy
from pqlite.events.announcer import Announcer
from pqlite.testing.memory import MemoryJobStore
from pqlite.worker import claimer as claiming
from pqlite.worker.claimer import Claimer
from pqlite.worker.lanes import Lanes
from tests.worker.memory import MemoryEngine


class Asked(MemoryEngine):
    """Remembers for how long it was asked to notify, and takes its time to answer."""

    def __init__(self) -> None:
        super().__init__(MemoryJobStore()._table, {"w-1"})
        self.asked: list[timedelta] = []
        self.seconds = 0.0

    async def arm(self, duration: timedelta, queues: Any = None) -> datetime:
        self.asked.append(duration)
        await asyncio.sleep(self.seconds)
        return await super().arm(duration, queues)


@pytest.fixture
def engine() -> Asked:
    return Asked()


def claimer_of(engine: Asked, pause: float = 1000.0, hears: Any = lambda: True) -> Claimer:
    """Return a claimer that has room and finds nothing."""
    claimer = Claimer(
        engine=cast(Any, engine),
        worker_id="w",
        queues=None,
        types=None,
        versions={},
        idle=IdlePollPolicy(pause, pause),
        announce=Announcer(),
        lanes=Lanes(),
        capacity=lambda _: (1, 0),
        held=list,
        accept=lambda _: None,
        lease_lost=lambda: None,
        rescan=lambda: None,
        listens=hears,
        start_audit=lambda: None,
    )
    claimer.holder = "w-1"
    return claimer


async def test_it_looks_once_more_after_it_has_asked_to_be_notified_and_then_sleeps(engine: Asked) -> None:
    claimer = claimer_of(engine)

    assert [await claimer.step() for _ in range(3)] == [0.0, 1000.0, 1000.0]
    assert min(engine.asked) > timedelta(seconds=1000)


async def test_it_looks_once_more_if_what_it_asked_for_was_over_when_the_answer_came(
    engine: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "ARM_MARGIN", 0.0)
    engine.seconds = 0.05
    claimer = claimer_of(engine, pause=0.02)

    assert [await claimer.step() for _ in range(3)] == [0.0] * 3


async def test_it_looks_once_more_if_what_it_had_asked_for_was_over_before_it_asked_again(
    engine: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "ARM_MARGIN", 0.1)
    claimer = claimer_of(engine, pause=0.0)
    for _ in range(2):
        await claimer.step()
    engine.seconds = 0.2
    claimer._idle = IdlePollPolicy(1000.0, 1000.0)

    assert [await claimer.step() for _ in range(2)] == [0.0, 1000.0]


async def test_who_could_not_hear_looks_once_more_after_it_asks_with_ears(engine: Asked) -> None:
    ears = [False]
    claimer = claimer_of(engine, hears=lambda: ears[0])
    while await claimer.step() == 0.0:
        pass
    assert max(engine.asked) < timedelta(0)

    ears[0] = True

    assert [await claimer.step() for _ in range(2)] == [0.0, 1000.0]


async def test_it_looks_once_more_on_a_new_connection_which_may_lead_to_a_server_that_knows_nothing(
    engine: Asked,
) -> None:
    claimer = claimer_of(engine)
    while await claimer.step() == 0.0:
        pass

    engine.link.generation = 2

    assert [await claimer.step() for _ in range(2)] == [0.0, 1000.0]
