from datetime import timedelta

import pytest

from tests.conformance.conftest import Store
from tests.store.workers import RegisteredWorker

pytestmark = pytest.mark.usefixtures("postgres_only")


async def test_a_lane_comes_with_its_first_job_and_the_seconds_until_it_is_due(
    store: Store, worker: RegisteredWorker
) -> None:
    await store.enqueue("t", run_after=timedelta(hours=2))
    first = await store.enqueue("t", run_after=timedelta(hours=1))

    [head] = await worker.engine.lanes(None, None)

    assert head.mark == ((await store.get(first)).run_after, first)
    assert 3500 < head.due_in <= 3600


async def test_a_known_lane_is_looked_at_behind_its_mark_only_and_others_are_found_between(
    store: Store, worker: RegisteredWorker
) -> None:
    for queue in "abcde":
        for priority in (0, 5):
            await store.enqueue("t", queue=queue, priority=priority)
            await store.enqueue("unwanted", queue=queue, priority=priority)
    heads = {head.lane: head.mark for head in await worker.engine.lanes(None, ["t"])}
    known = [lane for lane in heads if lane.queue in "bd"]

    found = await worker.engine.lanes(None, ["t"], [(lane, heads[lane]) for lane in known])

    assert {head.lane for head in found} == set(heads) - set(known)


async def test_of_lanes_with_nothing_due_only_the_soonest_is_returned(store: Store, worker: RegisteredWorker) -> None:
    await store.enqueue("later", run_after=timedelta(hours=2), priority=9)
    await store.enqueue("sooner", run_after=timedelta(hours=1))
    await store.enqueue("due")

    heads = await worker.engine.lanes(None, None)

    assert sorted(head.lane.job_type for head in heads) == ["due", "sooner"]
