"""Acts that a cancellation does not cut in two."""

import asyncio

import anyio
import pytest

from pqlite.uninterrupted import uninterrupted


class Act:
    def __init__(self) -> None:
        self.began, self.may_end = asyncio.Event(), asyncio.Event()
        self.ended = False
        self.hurries = 0

    async def run(self) -> str:
        self.began.set()
        await self.may_end.wait()
        self.ended = True
        return "done"

    async def fail(self) -> None:
        await self.run()
        raise LookupError("the act failed")

    def hurry(self) -> None:
        self.hurries += 1


async def cancelled_twice(task: asyncio.Task[object], act: Act) -> None:
    """Return when it was, and still goes on."""
    await act.began.wait()
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not task.done()


async def test_an_act_gives_what_it_returns() -> None:
    act = Act()
    act.may_end.set()

    assert await uninterrupted(act.run()) == "done"


async def test_an_act_goes_on_to_its_end_however_often_it_is_cancelled_which_is_told_afterwards() -> None:
    act = Act()
    task: asyncio.Task[object] = asyncio.create_task(uninterrupted(act.run(), on_cancel=act.hurry))
    await cancelled_twice(task, act)
    act.may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await task

    assert act.ended
    assert act.hurries == 2


async def test_what_an_act_raises_is_told_rather_than_the_cancellation() -> None:
    act = Act()
    task: asyncio.Task[object] = asyncio.create_task(uninterrupted(act.fail()))
    await cancelled_twice(task, act)
    act.may_end.set()

    await asyncio.wait([task])
    assert not task.cancelled()
    assert isinstance(task.exception(), LookupError)


async def test_a_cancelled_scope_which_cancels_in_every_round_is_heard_once() -> None:
    act = Act()

    async def cancel() -> None:
        await act.began.wait()
        scope.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not act.ended
        act.may_end.set()

    with anyio.CancelScope() as scope:
        cancelling = asyncio.create_task(cancel())
        await uninterrupted(act.run(), on_cancel=act.hurry)

    await cancelling
    assert (act.ended, act.hurries, scope.cancelled_caught) == (True, 1, True)
