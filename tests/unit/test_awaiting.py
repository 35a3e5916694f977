"""The task that looks for all who wait."""

import asyncio
import gc
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from pqlite.errors import JobTimeoutError
from pqlite.job import JobStatus
from pqlite.store import awaiting
from pqlite.store.awaiting import Ended, Poller, Watcher, pause_after

request: ContextVar[str] = ContextVar("request", default="none")


class Jobs:
    """What is looked at."""

    def __init__(self) -> None:
        self.ended: set[int] = set()
        self.looks: list[list[int]] = []
        self.looked = asyncio.Event()
        self.troubles: list[Exception] = []

    async def look(self, job_ids: list[int]) -> Sequence[Ended]:
        self.looks.append(job_ids)
        found = [Ended(each, JobStatus.DONE, "1", None, None) for each in job_ids if each in self.ended]
        self.looked.set()
        if self.troubles:
            raise self.troubles.pop(0)
        return found


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def watcher(jobs: Jobs) -> Watcher:
    return Watcher(jobs.look, lambda error: isinstance(error, OSError))


@pytest.fixture
def rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaiting, "FIRST_PAUSE", 3600.0)


async def waiting_for(watcher: Watcher, jobs: Jobs, *job_ids: int) -> list[asyncio.Task[Ended]]:
    """Return tasks that wait, once each of their jobs has been looked at."""
    tasks = [asyncio.create_task(watcher.wait(each, None, 3600.0)) for each in job_ids]
    while not set(job_ids) <= {each for look in jobs.looks for each in look}:
        jobs.looked.clear()
        await jobs.looked.wait()
    return tasks


def test_pauses_grow_with_the_time_waited_up_to_the_longest() -> None:
    assert [pause_after(waited, most=1.0) for waited in (0.0, 0.1, 2.0, 60.0)] == [0.01, 0.025, 0.5, 1.0]


async def test_all_who_wait_are_served_by_one_look(watcher: Watcher, jobs: Jobs) -> None:
    jobs.ended = {1, 2}

    found = await asyncio.gather(*(watcher.wait(each, None, 1.0) for each in (1, 2, 1)))

    assert [ended.id for ended in found] == [1, 2, 1]
    assert jobs.looks == [[1, 2]]


@pytest.mark.usefixtures("rarely")
async def test_news_of_a_job_is_looked_at_before_the_pause_is_over(watcher: Watcher, jobs: Jobs) -> None:
    first, second = await waiting_for(watcher, jobs, 1, 2)
    jobs.ended = {1, 2}

    watcher.look_again([1, 99])

    assert (await first).id == 1
    assert not second.done()
    assert jobs.looks[-1] == [1]
    watcher.look_again(iter([2]))
    assert (await second).id == 2


@pytest.mark.usefixtures("rarely")
async def test_news_that_comes_during_a_look_is_not_missed(watcher: Watcher, jobs: Jobs) -> None:
    async def slow(job_ids: list[int]) -> Sequence[Ended]:
        found = await jobs.look(job_ids)
        if len(jobs.looks) == 1:
            jobs.ended.add(1)
            watcher.look_again([1])
        return found

    watcher = Watcher(slow, lambda error: False)

    assert (await watcher.wait(1, None, 3600.0)).id == 1


async def test_weather_is_waited_out_and_told_to_who_gives_up(watcher: Watcher, jobs: Jobs) -> None:
    jobs.ended = {1}
    jobs.troubles = [ConnectionResetError("gone"), TimeoutError()]

    assert (await watcher.wait(1, None, 1.0)).id == 1

    jobs.troubles = [ConnectionResetError("gone")] * 1000
    with pytest.raises(JobTimeoutError) as error:
        await watcher.wait(1, 0.03, 1.0)
    assert isinstance(error.value.__cause__, ConnectionResetError)


async def test_weather_that_has_passed_is_not_told_to_who_gives_up(watcher: Watcher, jobs: Jobs) -> None:
    jobs.troubles = [ConnectionResetError("gone")]

    with pytest.raises(JobTimeoutError) as error:
        await watcher.wait(1, 0.1, 1.0)

    assert len(jobs.looks) > 1
    assert error.value.__cause__ is None


async def test_any_other_error_is_that_of_who_waits(watcher: Watcher, jobs: Jobs) -> None:
    jobs.troubles = [PermissionError("never"), LookupError("no such function")]

    with pytest.raises(LookupError, match="no such function"):
        await watcher.wait(1, None, 1.0)


@pytest.mark.usefixtures("rarely")
async def test_nothing_is_looked_at_when_nobody_waits_any_more(watcher: Watcher, jobs: Jobs) -> None:
    (task,) = await waiting_for(watcher, jobs, 1)
    serving = watcher._task
    assert serving is not None

    task.cancel()
    await asyncio.wait([task, serving])

    assert serving.exception() is None
    jobs.ended = {2}
    assert (await watcher.wait(2, None, 1.0)).id == 2


def test_who_waited_in_an_event_loop_that_is_gone_is_not_looked_for_in_the_next(jobs: Jobs, watcher: Watcher) -> None:
    async def leave() -> None:
        await waiting_for(watcher, jobs, 1)
        watcher.abort(LookupError("closed"))

    async def come() -> None:
        await asyncio.sleep(2 * awaiting.FIRST_PAUSE)  # whoever is still there would be looked for now
        jobs.ended = {2}
        assert (await watcher.wait(2, None, 1.0)).id == 2

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    jobs.looks.clear()
    asyncio.run(come())

    assert jobs.looks == [[2]]
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.mark.usefixtures("rarely")
async def test_a_look_that_hangs_does_not_outlive_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = asyncio.Event()

    async def look(job_ids: list[int]) -> Sequence[Ended]:
        hanging.set()
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(awaiting, "LOOK_SECONDS", 0.05)
    watcher = Watcher(look, lambda error: True)
    task = asyncio.create_task(watcher.wait(1, None, 1.0))
    await hanging.wait()
    serving = watcher._task
    assert serving is not None

    task.cancel()

    await asyncio.wait([serving], timeout=5.0)
    assert serving.done()


@pytest.mark.usefixtures("rarely")
async def test_who_comes_while_others_pause_is_looked_for_at_once(watcher: Watcher, jobs: Jobs) -> None:
    await waiting_for(watcher, jobs, 1)
    jobs.ended = {2}

    assert (await asyncio.wait_for(watcher.wait(2, None, 3600.0), 5)).id == 2


def test_pauses_in_one_event_loop_are_none_of_the_next_ones_business(watcher: Watcher, jobs: Jobs) -> None:
    async def late(job_id: int) -> None:
        task = asyncio.create_task(watcher.wait(job_id, None, 1.0))
        while len(jobs.looks) < 2:
            await asyncio.sleep(0.001)
        jobs.ended = {job_id}
        assert (await task).id == job_id

    for n in range(2):
        jobs.looks.clear()
        asyncio.run(late(n))


async def test_looks_know_nothing_of_the_first_who_waits(jobs: Jobs) -> None:
    seen: list[str] = []

    async def look(job_ids: list[int]) -> Sequence[Ended]:
        seen.append(request.get())
        return await jobs.look(job_ids)

    jobs.ended = {1}
    request.set("of a user")
    await Watcher(look, lambda error: False).wait(1, None, 1.0)

    assert seen == ["none"]


async def test_who_waits_for_no_time_is_told_after_one_look_and_no_later(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look(job_ids: list[int]) -> Sequence[Ended]:
        await asyncio.sleep(0.01)
        return await jobs.look(job_ids)

    monkeypatch.setattr(awaiting, "ONE_LOOK_SECONDS", 3600.0)
    watcher = Watcher(look, lambda error: False)

    with pytest.raises(JobTimeoutError):
        await asyncio.wait_for(watcher.wait(1, 0.0, 1.0), 5)

    assert jobs.looks == [[1]]


async def test_who_waits_for_no_time_does_not_wait_for_a_look_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look(job_ids: list[int]) -> Sequence[Ended]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(awaiting, "ONE_LOOK_SECONDS", 0.02)
    watcher = Watcher(look, lambda error: True)

    with pytest.raises(JobTimeoutError):
        await asyncio.wait_for(watcher.wait(1, 0.0, 1.0), 5)
    watcher.abort(LookupError("closed"))


@pytest.mark.usefixtures("rarely")
async def test_an_error_is_not_logged_for_who_has_left_meanwhile(jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    may_fail = asyncio.Event()

    async def look(job_ids: list[int]) -> Sequence[Ended]:
        await jobs.look(job_ids)
        await may_fail.wait()
        raise LookupError("no such function")

    watcher = Watcher(look, lambda error: False)
    leaving, staying = await waiting_for(watcher, jobs, 1, 2)
    leaving.cancel()
    await asyncio.wait([leaving])
    may_fail.set()
    await asyncio.wait([staying])
    assert isinstance(staying.exception(), LookupError)
    del leaving, staying
    gc.collect()

    # Not more: `gc` may also collect what an earlier test has left.
    assert "no such function" not in caplog.text


@pytest.mark.usefixtures("rarely")
async def test_who_waits_when_it_is_over_is_told_why_and_no_look_goes_on(jobs: Jobs) -> None:
    async def look(job_ids: list[int]) -> Sequence[Ended]:
        await jobs.look(job_ids)
        await asyncio.Event().wait()
        return []

    watcher = Watcher(look, lambda error: True)
    (task,) = await waiting_for(watcher, jobs, 1)
    serving = watcher._task
    assert serving is not None

    watcher.abort(LookupError("closed"))

    with pytest.raises(LookupError, match="closed"):
        await asyncio.wait_for(task, 5)
    await asyncio.wait([serving], timeout=5)
    assert serving.done()


@pytest.mark.usefixtures("rarely")
async def test_waiting_can_begin_again_as_soon_as_it_is_over(watcher: Watcher, jobs: Jobs) -> None:
    (task,) = await waiting_for(watcher, jobs, 1)
    jobs.ended = {2}

    watcher.abort(LookupError("closed"))

    async with asyncio.timeout(5):  # at once, in the same turn of the event loop
        assert (await watcher.wait(2, None, 3600.0)).id == 2
    with pytest.raises(LookupError, match="closed"):
        await task


async def test_many_are_looked_at_in_parts(watcher: Watcher, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaiting, "MOST_IDS", 2)
    jobs.ended = {1, 2, 3, 4, 5}

    found = await asyncio.gather(*(watcher.wait(each, None, 1.0) for each in sorted(jobs.ended)))

    assert [ended.id for ended in found] == [1, 2, 3, 4, 5]
    assert jobs.looks == [[1, 2], [3, 4], [5]]


@pytest.mark.usefixtures("rarely")
async def test_who_polls_is_told_when_the_time_is_over_and_not_a_pause_later(jobs: Jobs) -> None:
    with pytest.raises(JobTimeoutError):
        await asyncio.wait_for(Poller(jobs.look).wait(1, 0.02, 3600.0), 5)

    assert jobs.looks == [[1], [1]]
