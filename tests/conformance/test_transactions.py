"""The caller's transaction decides."""

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from pqlite import ConfigurationError, JobNotFound, JobStatus, LeaseLost, NotInTransaction
from pqlite.testing import jobs_of
from pqlite.testing.memory import MemoryJobStore
from tests.conformance.conftest import Store
from tests.conformance.scene import Holder, RolledBack

FAILED = (NotInTransaction, asyncpg.InFailedSQLTransactionError)
"""What is raised by what is done in a transaction that has failed: in memory, and by the database."""


async def test_what_is_enqueued_in_a_transaction_exists_when_it_is_committed(store: Store, holder: Holder) -> None:
    async with store.transaction() as tx:
        job_id = await store.enqueue("t", conn=tx)
        [verdict] = await store.enqueue_many([{"job_type": "t"}], conn=tx)
        for unseen in (job_id, verdict.id):
            with pytest.raises(JobNotFound):
                await store.get(unseen)
        assert await holder.claim() == []

    assert {job.id for job in await holder.claim()} == {job_id, verdict.id}


async def test_what_is_enqueued_or_cancelled_in_a_transaction_is_undone_with_it(store: Store) -> None:
    there = await store.enqueue("t")

    with suppress(RolledBack):
        async with store.transaction() as tx:
            await store.enqueue("u", conn=tx)
            await store.enqueue_many([{"job_type": "u"}], conn=tx)
            assert await store.cancel(there, conn=tx) is JobStatus.CANCELLED
            raise RolledBack

    assert (await store.get(there)).status is JobStatus.READY
    assert await store.pickup("me", job_types=["u"]) is None


async def test_what_is_done_after_a_savepoint_is_undone_with_it_and_the_rest_stays(store: Store) -> None:
    async with store.transaction() as tx:
        first = await store.enqueue("t", conn=tx)
        with suppress(RolledBack):
            async with tx.transaction():
                second = await store.enqueue("t", conn=tx)
                await store.cancel(first, conn=tx)
                raise RolledBack
        third = await store.enqueue("t", conn=tx)

    assert (await store.get(first)).status is JobStatus.READY
    assert (await store.get(third)).status is JobStatus.READY
    with pytest.raises(JobNotFound):
        await store.get(second)


async def test_a_refused_batch_leaves_nothing_of_itself_in_a_transaction_that_goes_on(store: Store) -> None:
    async with store.transaction() as tx:
        with suppress(ValueError):
            await store.enqueue_many([{"job_type": "t"}, {"job_type": ""}], conn=tx)
        kept = await store.enqueue("u", conn=tx)

    assert (await store.get(kept)).status is JobStatus.READY
    assert await store.pickup("me", job_types=["t"]) is None


async def test_a_connection_without_a_transaction_commits_at_once_and_is_refused_if_strict(store: Store) -> None:
    async with store.connection() as conn:
        job_id = await store.enqueue("t", conn=conn)
        assert (await store.get(job_id)).status is JobStatus.READY
        for verb in (
            lambda: store.enqueue("t", conn=conn, strict=True),
            lambda: store.enqueue_many([{"job_type": "t"}], conn=conn, strict=True),
            lambda: store.cancel(job_id, conn=conn, strict=True),
        ):
            with pytest.raises(NotInTransaction, match="in no transaction"):
                await verb()

    assert (await store.get(job_id)).status is JobStatus.READY


@pytest.mark.parametrize("nonsense", ["a string", 7, object()])
async def test_what_is_no_connection_is_refused_in_a_sentence(store: Store, nonsense: Any) -> None:
    with pytest.raises(ConfigurationError, match="conn must be"):
        await store.enqueue("t", conn=nonsense)

    assert await store.pickup("me") is None


async def test_a_verb_waits_for_the_transaction_that_has_its_row(store: Store) -> None:
    job_id = await store.enqueue("t")

    async with store.transaction() as tx:
        await store.cancel(job_id, conn=tx)
        waiting = asyncio.create_task(store.retry(job_id))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done

    assert await waiting is JobStatus.READY
    assert (await store.get(job_id)).status is JobStatus.READY


async def test_a_savepoint_that_is_undone_lets_go_of_the_rows_that_were_locked_since(store: Store) -> None:
    job_id = await store.enqueue("t")

    async with store.transaction() as tx:
        with suppress(RolledBack):
            async with tx.transaction():
                await store.cancel(job_id, conn=tx)
                waiting = asyncio.create_task(store.retry(job_id))
                done, _ = await asyncio.wait([waiting], timeout=0.1)
                assert not done
                raise RolledBack

        assert await asyncio.wait_for(waiting, 10) is JobStatus.READY


async def test_what_a_transaction_has_enqueued_is_not_there_for_others_and_keeps_nobody_waiting(store: Store) -> None:
    async with store.transaction() as tx:
        job_id = await store.enqueue("t", conn=tx)
        for verb in (store.cancel, store.retry):
            with pytest.raises(JobNotFound):
                await asyncio.wait_for(verb(job_id), 10)


async def test_a_transaction_that_has_failed_keeps_nothing_not_even_what_comes_after_a_savepoint(
    store: Store,
) -> None:
    await store.enqueue("t")
    job = await store.pickup("me")
    assert job is not None
    await store.mark_done(job)

    async with store.transaction() as tx:
        await store.enqueue("before", conn=tx)
        with pytest.raises(LeaseLost):
            await store.complete_on(tx, job)
        with pytest.raises(FAILED):
            async with tx.transaction():
                pytest.fail("a savepoint was made")
        with pytest.raises(FAILED):
            await store.enqueue("after", conn=tx)

    assert [kept.id for kept in await jobs_of(store)] == [job.id]


async def test_a_transaction_that_has_failed_lets_go_of_its_rows(store: Store) -> None:
    waiting = await store.enqueue("t", dedupe_key="k")
    await store.enqueue("t", priority=1)
    job = await store.pickup("me")
    assert job is not None
    await store.mark_done(job)

    async with store.transaction() as tx:
        await store.cancel(waiting, conn=tx)
        with pytest.raises(LeaseLost):
            await store.complete_on(tx, job)

        assert await asyncio.wait_for(store.enqueue("t", dedupe_key="k"), 10) == waiting
        assert await asyncio.wait_for(store.cancel(waiting), 10) is JobStatus.CANCELLED


async def test_a_savepoint_whose_failure_was_swallowed_is_not_released(store: Store) -> None:
    await store.enqueue("t")
    job = await store.pickup("me")
    assert job is not None
    await store.mark_done(job)

    async def swallow() -> None:
        async with store.transaction() as tx, tx.transaction():
            await store.enqueue("u", conn=tx)
            with suppress(LeaseLost):
                await store.complete_on(tx, job)

    with pytest.raises(FAILED):
        await swallow()

    assert [kept.id for kept in await jobs_of(store)] == [job.id]


async def test_a_savepoint_undoes_the_failure_within_it_and_the_transaction_goes_on(store: Store) -> None:
    await store.enqueue("t")
    job = await store.pickup("me")
    assert job is not None
    await store.mark_done(job)

    async with store.transaction() as tx:
        with pytest.raises(LeaseLost):
            async with tx.transaction():
                await store.complete_on(tx, job)
        after = await store.enqueue("after", conn=tx)

    assert (await store.get(after)).status is JobStatus.READY


async def test_a_connection_of_another_store_in_memory_or_one_given_back_is_refused() -> None:
    async with MemoryJobStore() as store, MemoryJobStore() as other:
        async with other.transaction() as tx:
            with pytest.raises(ConfigurationError, match="a connection of this MemoryJobStore"):
                await store.enqueue("t", conn=tx)
        with pytest.raises(ConfigurationError, match="that is in use"):
            await other.enqueue("t", conn=tx)
        with pytest.raises(AttributeError, match="has no SQL, so"):
            await tx.fetchval("select 1")
