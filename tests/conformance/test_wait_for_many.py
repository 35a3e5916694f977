"""Waiting for several jobs: for all of them, for one of them, for each as it ends."""

from __future__ import annotations

import asyncio
import time

import pytest

from pqlite import ConfigurationError, Handlers, JobFailed, JobNotFound, JobStatus, JobTimeoutError
from pqlite.testing import drain
from tests.conformance.conftest import Store

handlers = Handlers()


@handlers.job("double")
async def double(n: int) -> int:
    return 2 * n


@handlers.job("break", max_attempts=1)
async def breaks() -> None:
    raise ValueError("broken")


async def doubled(store: Store, *numbers: int) -> list[int]:
    return [await store.enqueue(double.new(n)) for n in numbers]


async def test_all_outcomes_come_in_the_order_of_the_ids(store: Store) -> None:
    ids = await doubled(store, 1, 2, 3)
    waiting = asyncio.create_task(store.wait_for_all([ids[2], ids[0], ids[2]]))
    await drain(store, handlers)

    assert [outcome.result for outcome in await waiting] == [6, 2, 6]


async def test_waiting_for_no_job_at_all_is_over_at_once(store: Store) -> None:
    assert await store.wait_for_all([]) == []
    assert [outcome async for outcome in store.as_completed([])] == []
    with pytest.raises(ConfigurationError, match="at least one job"):
        await store.wait_for_any([])


async def test_one_that_ended_is_enough_for_any_and_the_others_go_on(store: Store) -> None:
    [late, early] = await doubled(store, 1, 2)
    assert await store.cancel(early) is JobStatus.CANCELLED

    outcome = await store.wait_for_any([late, early], raise_on_failure=False)

    assert (outcome.id, outcome.status) == (early, JobStatus.CANCELLED)
    assert (await store.get(late)).status is JobStatus.READY


async def test_outcomes_come_as_jobs_end(store: Store) -> None:
    [first, second] = await doubled(store, 1, 2)
    await store.cancel(second)
    seen = []

    async for outcome in store.as_completed([first, second], raise_on_failure=False):
        seen.append(outcome.id)
        if outcome.id == second:
            await drain(store, handlers)

    assert seen == [second, first]


async def test_the_first_failure_ends_the_waiting_for_all(store: Store) -> None:
    [good] = await doubled(store, 1)
    bad = await store.enqueue(breaks.new())
    await drain(store, handlers, raises=False)
    [later] = await doubled(store, 1)

    with pytest.raises(JobFailed, match="broken"):
        await store.wait_for_all([good, bad, later])
    outcomes = await store.wait_for_all([good, bad], raise_on_failure=False)
    assert [outcome.status for outcome in outcomes] == [JobStatus.DONE, JobStatus.FAILED]


async def test_the_timeout_is_for_all_together(store: Store) -> None:
    ids = await doubled(store, *range(20))
    began = time.monotonic()

    with pytest.raises(JobTimeoutError):
        await store.wait_for_all(ids, timeout=0.3)
    assert time.monotonic() - began < 2


async def test_an_id_that_no_job_has_is_an_error(store: Store) -> None:
    ids = await doubled(store, 1)
    with pytest.raises(JobNotFound):
        await store.wait_for_all([*ids, 10**12])


async def test_leaving_the_loop_early_leaves_no_task_behind(store: Store) -> None:
    ids = await doubled(store, *range(50))
    await store.cancel(ids[7])

    completed = store.as_completed(ids, raise_on_failure=False)
    async for outcome in completed:
        assert outcome.id == ids[7]
        break
    await completed.aclose()

    coroutines = [each.get_coro() for each in asyncio.all_tasks()]
    assert not [each for each in coroutines if each is not None and each.__qualname__.endswith("er.wait")]


@pytest.mark.usefixtures("postgres_only")
async def test_two_thousand_callers_share_the_polls(store: Store) -> None:
    verdicts = await store.enqueue_many([double.new(n) for n in range(2000)])
    ids = [verdict.id for verdict in verdicts]
    polls = []
    look = store._watcher._look

    async def counted(job_ids: list[int]) -> object:
        polls.append(len(job_ids))
        return await look(job_ids)

    store._watcher._look = counted
    waiting = [asyncio.create_task(store.wait_for(job_id, timeout=60)) for job_id in ids]
    async with store.connection() as conn:
        await conn.execute("update pqlite.jobs set status = 'DONE', result = '4', finished_at = now()")

    assert [(await each).result for each in waiting] == [4] * 2000
    assert len(polls) < 20
