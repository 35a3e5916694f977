"""The loop under every part: it acts, pauses, and survives."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from pqlite import LoopErrorPolicy
from pqlite.worker.supervisor import FOREVER, Loop, Untried
from tests.support import until


class Quick(LoopErrorPolicy):
    def next_sleep(self, consecutive_errors: int) -> float:
        return 0.0


def loop_of(step: Callable[[], Any], heard: list[Any], errors: LoopErrorPolicy | None = None, **options: Any) -> Loop:
    return Loop(
        "part",
        step,
        errors=errors or Quick(),
        failed=lambda name, error, failures: heard.append((name, str(error), failures)),
        recovered=lambda name, failures: heard.append((name, "recovered", failures)),
        **options,
    )


async def test_a_loop_survives_errors_and_says_when_it_works_again() -> None:
    heard: list[Any] = []
    calls = 0

    async def step() -> float:
        nonlocal calls
        calls += 1
        if calls <= 2:
            raise ValueError("weather")
        loop.stop()
        return 0.0

    loop = loop_of(step, heard)
    await loop.run()

    assert heard == [("part", "weather", 1), ("part", "weather", 2), ("part", "recovered", 2)]
    assert loop.trouble() is None
    assert loop.last_error is None


async def test_a_call_that_tried_nothing_does_not_end_a_row_of_failures() -> None:
    heard: list[Any] = []
    acts: list[Exception | float] = [ValueError("away"), Untried(0.0), ValueError("away"), Untried(0.0), 0.0]

    async def step() -> float:
        act = acts.pop(0)
        if not acts:
            loop.stop()
        if isinstance(act, Exception):
            raise act
        return act

    loop = loop_of(step, heard)
    await loop.run()

    assert heard == [("part", "away", 1), ("part", "away", 2), ("part", "recovered", 2)]


async def test_a_call_that_hangs_after_an_early_wake_up_is_noticed() -> None:
    calls = 0

    async def step() -> float:
        nonlocal calls
        calls += 1
        if calls > 1:
            await asyncio.Event().wait()
        return FOREVER

    loop = loop_of(step, [], overdue_after=0.02)
    task = asyncio.create_task(loop.run())
    await until(lambda: calls == 1)
    assert loop.trouble() is None
    loop.wake()
    await until(lambda: loop.trouble() is not None)
    task.cancel()
    await asyncio.wait([task])

    assert "has not completed a cycle" in (loop.trouble() or "")


async def test_a_cancellation_that_nobody_asked_the_loop_for_does_not_end_it() -> None:
    heard: list[Any] = []
    shared = asyncio.get_running_loop().create_future()
    shared.cancel()

    async def step() -> float:
        if not heard:
            await shared  # somebody else's, such as the renewal of a token that was given up
        loop.stop()
        return 0.0

    loop = loop_of(step, heard)
    task = asyncio.create_task(loop.run())
    await asyncio.wait([task], timeout=5)

    assert not task.cancelled()
    assert [failures for _, _, failures in heard] == [1, 1]
    assert heard[1][1] == "recovered"


async def test_a_loop_ends_when_its_task_is_cancelled() -> None:
    begun = asyncio.Event()

    async def step() -> float:
        begun.set()
        await asyncio.sleep(60)
        return 0.0

    task = asyncio.create_task(loop_of(step, heard := []).run())
    await begun.wait()
    task.cancel()
    await asyncio.wait([task], timeout=5)

    assert task.cancelled()
    assert heard == []


async def test_a_policy_that_raises_does_not_end_the_loop() -> None:
    class Broken(LoopErrorPolicy):
        def next_sleep(self, consecutive_errors: int) -> float:
            raise RuntimeError("broken policy")

    heard: list[Any] = []

    async def step() -> float:
        if heard:
            loop.stop()
            return 0.0
        raise ValueError("weather")

    loop = loop_of(step, heard, Broken())
    task = asyncio.create_task(loop.run())
    await until(lambda: len(heard) == 2)
    loop.stop()
    await asyncio.wait_for(task, 1)

    assert heard[1] == ("part's loop_error_policy", "broken policy", 1)


async def test_a_wake_up_ends_the_pause() -> None:
    calls = 0

    async def step() -> float:
        nonlocal calls
        calls += 1
        return FOREVER

    loop = loop_of(step, [])
    task = asyncio.create_task(loop.run())
    await until(lambda: calls == 1)
    loop.wake()
    await until(lambda: calls == 2)
    loop.stop()
    await asyncio.wait_for(task, 1)


async def test_a_wake_up_does_not_shorten_the_pause_after_an_error() -> None:
    class Long(LoopErrorPolicy):
        def next_sleep(self, consecutive_errors: int) -> float:
            return 60.0

    calls = 0

    async def step() -> float:
        nonlocal calls
        calls += 1
        raise ValueError("weather")

    loop = loop_of(step, heard := [], Long())
    task = asyncio.create_task(loop.run())
    await until(lambda: heard)
    for _ in range(10):
        loop.wake()
        await asyncio.sleep(0)
    loop.stop()
    await asyncio.wait_for(task, 1)

    assert calls == 1


async def test_a_wake_up_during_the_call_is_not_lost() -> None:
    calls = 0

    async def step() -> float:
        nonlocal calls
        calls += 1
        if calls == 1:
            loop.wake()
        else:
            loop.stop()
        return FOREVER

    loop = loop_of(step, [])
    await asyncio.wait_for(loop.run(), 1)

    assert calls == 2


async def test_a_loop_that_hangs_is_reported() -> None:
    async def step() -> float:
        await asyncio.sleep(60)
        return 0.0

    loop = loop_of(step, [], overdue_after=0.02)
    task = asyncio.create_task(loop.run())
    trouble = await until(loop.trouble)
    task.cancel()

    assert "has not completed a cycle" in trouble


async def test_a_loop_that_pauses_for_long_or_was_stopped_does_not_hang() -> None:
    called = asyncio.Event()

    async def step() -> float:
        called.set()
        return FOREVER

    loop = loop_of(step, [], overdue_after=0.0)
    task = asyncio.create_task(loop.run())
    await called.wait()
    await asyncio.sleep(0)
    assert loop.trouble() is None
    loop.stop()
    await task
    loop._next_cycle = 0.0
    assert loop.trouble() is None


async def test_the_pause_after_an_error_is_never_none_and_not_the_same_for_everybody() -> None:
    async def step() -> float:
        return 0.0

    pauses = {loop_of(step, [])._pause_after_error() for _ in range(20)}

    assert min(pauses) >= 0.04
    assert len(pauses) > 1


async def test_a_loop_without_a_pause_lets_others_have_their_turn() -> None:
    others = asyncio.Event()
    calls = 0

    async def step() -> float:
        nonlocal calls
        calls += 1
        if others.is_set() or calls == 1000:
            loop.stop()
        return 0.0

    loop = loop_of(step, [])
    asyncio.get_running_loop().call_soon(others.set)
    await loop.run()

    assert calls < 1000


async def test_a_loop_that_is_to_wake_later_sleeps_no_longer_than_until_then() -> None:
    calls: list[float] = []

    async def step() -> float:
        calls.append(time.monotonic())
        return FOREVER

    loop = loop_of(step, [])
    running = asyncio.create_task(loop.run())
    await until(lambda: calls)
    later = time.monotonic() + 0.04
    loop.wake_in(0.04)
    loop.wake_in(0.02)

    await until(lambda: calls[-1] >= later)
    loop.stop()
    await running
