"""How many jobs are claimed to start soon."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from pqlite import Job, JobStatus
from pqlite.worker import prefetch
from pqlite.worker.prefetch import MAX_JOBS, PrefetchQueue, prefetch_target


def job(id: int) -> Job:
    fields: dict[str, Any] = dict.fromkeys(Job.__dataclass_fields__)
    return Job(**fields | {"id": id, "run_after": datetime.now(UTC), "status": JobStatus.RUNNING})


@pytest.mark.parametrize(
    ("concurrency", "pace", "round_trip", "worth"),
    [
        (10, None, 0.002, 0),  # nothing is known yet
        (10, 0.001, 0.002, 40),  # 10,000 jobs a second, two round trips of 2 ms
        (10, 0.050, 0.002, 0),  # 200 a second: less than one job in two round trips
        (10, 0.050, 0.100, 20),  # a distant database, but never more than a tenth of a second's work
        (10, 0.200, 0.100, 0),  # long jobs are not prefetched at all
        (1000, 0.0001, 0.1, MAX_JOBS),
    ],
)
def test_two_round_trips_of_work_are_worth_prefetching_and_no_more_than_a_tenth_of_a_second(
    concurrency: int, pace: float | None, round_trip: float, worth: int
) -> None:
    assert prefetch_target(concurrency, pace, round_trip) == worth


async def test_more_is_fetched_when_half_is_gone() -> None:
    room = PrefetchQueue(give_back=lambda _job: None)
    assert room.room(10, 0.001, 0.002, last_end=0.0) == 40
    for id in range(40):
        room.add(job(id), time.monotonic())
    assert room.room(10, 0.001, 0.002, last_end=0.0) == 0
    for _ in range(20):
        room.take()
    assert room.low_water == 20
    assert room.room(10, 0.001, 0.002, last_end=0.0) == 20


async def test_what_waits_too_long_is_given_back_and_nothing_is_prefetched_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefetch, "MAX_WAIT_SECONDS", 0.02)
    back: list[int] = []
    given = asyncio.Event()

    def give_back(job: Job) -> None:
        back.append(job.id)
        given.set()

    room = PrefetchQueue(give_back)
    room.add(job(1), time.monotonic())
    room.add(job(2), time.monotonic() + 60)
    await given.wait()

    assert (back, room.ids) == ([1], [2])
    assert room.room(10, 0.001, 0.002, last_end=time.monotonic()) == 0
    monkeypatch.setattr(prefetch, "PAUSE_AFTER", 0.0)
    assert room.room(10, 0.001, 0.002, last_end=time.monotonic()) > 0
    assert room.room(10, 0.001, 0.002, last_end=0.0) == 0  # no attempt has ended since
    room.clear()
    assert back == [1, 2]
