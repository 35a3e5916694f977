"""At most one active job has a key, whoever races for it."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest

from pqlite import DedupeKeyBusy, Enqueued, JobStatus
from pqlite.outcome import Verb
from pqlite.store import writer
from pqlite.testing.memory import store as memory
from tests.conformance.conftest import Store
from tests.conformance.scene import Holder, RolledBack


async def test_the_verdicts_of_a_batch_are_in_the_order_given_and_say_what_is_new(store: Store) -> None:
    there = await store.enqueue("t", dedupe_key="m")

    verdicts = await store.enqueue_many(
        [{"job_type": f"t{n}", "dedupe_key": key} for n, key in enumerate(["z", None, "m", "a", "z", None])]
    )

    assert [verdict.inserted for verdict in verdicts] == [True, True, False, True, False, True]
    assert verdicts[2] == Enqueued(there, False)
    assert verdicts[4].id == verdicts[0].id
    for position in (0, 1, 3, 5):
        assert (await store.get(verdicts[position].id)).job_type == f"t{position}"


async def test_the_first_of_two_equal_keys_in_a_batch_is_the_one_that_is_stored(store: Store) -> None:
    verdicts = await store.enqueue_many([{"job_type": "t", "payload": n, "dedupe_key": "k"} for n in range(3)])

    assert len({verdict.id for verdict in verdicts}) == 1
    assert (await store.get(verdicts[0].id)).payload == 0


async def test_a_job_that_is_retried_keeps_its_key(store: Store, holder: Holder) -> None:
    job_id = await store.enqueue("t", dedupe_key="k")
    await holder.settle(await holder.claim_one(), Verb.RETRY, delay=3600)

    assert await store.enqueue("t", dedupe_key="k") == job_id


@pytest.mark.parametrize("claimed", [False, True])
async def test_an_active_jobs_id_is_returned_for_its_key(store: Store, holder: Holder, claimed: bool) -> None:
    first = await store.enqueue("t", {"n": 1}, dedupe_key="k")
    if claimed:
        await holder.claim_one()

    assert await store.enqueue("other", {"n": 2}, dedupe_key="k", priority=9) == first
    assert (await store.get(first)).payload == {"n": 1}


@pytest.mark.parametrize("verb", [Verb.DONE, Verb.FAILED, Verb.CANCELLED])
async def test_a_finished_jobs_key_is_free(store: Store, holder: Holder, verb: Verb) -> None:
    first = await store.enqueue("t", dedupe_key="k")
    await holder.settle(await holder.claim_one(), verb)

    assert await store.enqueue("t", dedupe_key="k") != first


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("many", [True, False])
async def test_enqueue_waits_for_the_transaction_that_holds_the_key(store: Store, commits: bool, many: bool) -> None:
    async def rival() -> int:
        if many:
            return (await store.enqueue_many([{"job_type": "t", "dedupe_key": "k"}]))[0].id
        return await store.enqueue("t", dedupe_key="k")

    waiting: asyncio.Task[int] | None = None
    with suppress(RolledBack):
        async with store.transaction() as tx:
            first = await store.enqueue("t", dedupe_key="k", conn=tx)
            waiting = asyncio.create_task(rival())
            done, _ = await asyncio.wait([waiting], timeout=0.1)
            assert not done
            if not commits:
                raise RolledBack

    assert waiting is not None
    assert (await waiting == first) is commits
    assert (await store.get(await waiting)).status is JobStatus.READY


async def test_enqueue_adds_a_job_when_the_transaction_it_waits_for_completes_the_holder(store: Store) -> None:
    first = await store.enqueue("t", dedupe_key="k")
    job = await store.pickup("me")
    assert job is not None

    async with store.transaction() as tx:
        await store.complete_on(tx, job)
        waiting = asyncio.create_task(store.enqueue("t", dedupe_key="k"))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done

    assert await waiting != first


async def test_a_key_held_by_a_transaction_that_does_not_end_is_busy(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "KEY_WAIT", timedelta(milliseconds=50))
    monkeypatch.setattr(memory, "KEY_WAIT", 0.05)

    async with store.transaction() as tx:
        await store.enqueue("t", dedupe_key="k", conn=tx)
        with pytest.raises(DedupeKeyBusy, match="nothing was enqueued"):
            await store.enqueue("t", dedupe_key="k")
        with pytest.raises(DedupeKeyBusy, match="nothing was enqueued"):
            await store.enqueue_many([{"job_type": "t"}, {"job_type": "t", "dedupe_key": "k"}])

    assert await store.pickup("me") is not None
    assert await store.pickup("me") is None


async def test_the_transaction_that_enqueued_a_job_sees_its_key(store: Store) -> None:
    async with store.transaction() as tx:
        first = await store.enqueue("t", dedupe_key="k", conn=tx)
        assert await store.enqueue("t", dedupe_key="k", conn=tx) == first
        await store.cancel(first, conn=tx)
        assert await store.enqueue("t", dedupe_key="k", conn=tx) != first


async def test_twenty_tasks_with_the_same_keys_get_the_same_jobs(store: Store) -> None:
    async with asyncio.TaskGroup() as tasks:
        ids = [tasks.create_task(store.enqueue("t", dedupe_key=f"k{n % 4}")) for n in range(20)]

    assert len({task.result() for task in ids}) == 4
    assert all(ids[n].result() == ids[n % 4].result() for n in range(20))
