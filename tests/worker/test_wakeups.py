"""Who is woken for nothing again and again stops listening for a while."""

import pytest

from pqlite.worker import wakeups
from pqlite.worker.wakeups import MAX_FRUITLESS, MAX_IGNORE_SECONDS, Wakeups


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(wakeups.time, "monotonic", lambda: now[0])
    return now


def wake_for_nothing(worker: Wakeups) -> float:
    assert worker.receive()
    assert worker.take()
    return worker.found_nothing()


def test_a_few_wake_ups_for_nothing_are_forgiven_and_more_make_deaf_for_longer_and_longer(clock: list[float]) -> None:
    worker = Wakeups()
    assert [wake_for_nothing(worker) for _ in range(MAX_FRUITLESS - 1)] == [0.0] * (MAX_FRUITLESS - 1)

    deaf = []
    for _ in range(8):
        deaf.append(wake_for_nothing(worker))
        assert not worker.receive()
        clock[0] += deaf[-1]

    assert deaf == sorted(deaf)
    assert deaf[0] == 0.1
    assert deaf[-1] == MAX_IGNORE_SECONDS


def test_a_job_found_makes_it_listen_again(clock: list[float]) -> None:
    worker = Wakeups()
    for _ in range(MAX_FRUITLESS + 3):
        clock[0] += wake_for_nothing(worker)
    assert worker.receive()
    assert worker.take()
    worker.found()

    assert [wake_for_nothing(worker) for _ in range(MAX_FRUITLESS - 1)] == [0.0] * (MAX_FRUITLESS - 1)


def test_finding_nothing_without_having_been_woken_counts_for_nothing(clock: list[float]) -> None:
    worker = Wakeups()

    assert [worker.found_nothing() for _ in range(100)] == [0.0] * 100
    assert worker.receive()


def test_a_wake_up_is_answered_once(clock: list[float]) -> None:
    worker = Wakeups()
    worker.receive()

    assert (worker.take(), worker.take()) == (True, False)


@pytest.mark.parametrize("found", [True, False])
def test_who_looks_while_it_is_deaf_looks_again_when_it_hears(clock: list[float], found: bool) -> None:
    worker = Wakeups()
    while not (deaf := wake_for_nothing(worker)):
        pass
    clock[0] += deaf / 4
    if found:
        worker.found()

    again = worker.found_nothing()  # something else than a wake-up has ended its pause

    assert not worker.receive()
    assert again == pytest.approx(deaf * 3 / 4)
    clock[0] += again
    assert worker.found_nothing() == 0.0
    assert worker.receive()
