"""The task that looks for all who wait."""

import asyncio
from collections.abc import Sequence

import pytest

from pqlite.errors import JobTimeoutError
from pqlite.job import JobStatus
from pqlite.store import awaiting
from pqlite.store.awaiting import Ended, Watcher, pause_after


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
