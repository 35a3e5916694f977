"""The handler's own acts and DONE are committed together, or neither is."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest

from pqlite import JobCancelled, JobStatus, LeaseLost, NotInTransaction, PayloadError
from pqlite.job import Job
from pqlite.outcome import Verb, Verdict
from pqlite.store import completion
from pqlite.testing.memory import store as memory
from tests.conformance.conftest import Store
from tests.conformance.scene import Holder, RolledBack
from tests.store.workers import RegisteredWorker


@pytest.fixture
async def job(store: Store, holder: Holder) -> Job:
    await store.enqueue("t")
    return await holder.claim_one()


async def lose(store: Store, holder: Holder, job: Job) -> None:
    """Let the worker give the job back behind the handler's back."""
    assert await holder.settle(job, Verb.RELEASED) is None


async def test_what_is_enqueued_and_done_are_committed_together(store: Store, job: Job) -> None:
    async with store.complete(job, result={"rows": 3}) as conn:
        follow_up = await store.enqueue("u", conn=conn)
        assert (await store.get(job.id)).status is JobStatus.RUNNING

    done = await store.get(job.id)
    assert (job.status, done.status, done.result, done.locked_by) == (
        JobStatus.DONE,
        JobStatus.DONE,
        {"rows": 3},
        None,
    )
    assert done.duration_ms is not None
    assert (await store.get(follow_up)).status is JobStatus.READY
    assert await store.was_completed(job)


async def test_a_block_that_raises_undoes_what_it_did_and_the_job_goes_on(
    store: Store, holder: Holder, job: Job
) -> None:
    with suppress(RolledBack):
        async with store.complete(job) as conn:
            await store.enqueue("u", conn=conn)
            raise RolledBack

    assert await store.pickup("me") is None
    assert (await store.get(job.id)).status is JobStatus.RUNNING
    assert job.status is JobStatus.RUNNING
    assert not await store.was_completed(job)
    assert await holder.settle(job, Verb.DONE) is None


async def test_a_cancellation_in_the_block_undoes_what_it_did(store: Store, job: Job) -> None:
    entered = asyncio.Event()

    async def handler() -> None:
        async with store.complete(job) as conn:
            await store.enqueue("u", conn=conn)
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(handler())
    await entered.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

    assert await store.pickup("me") is None
    assert (await store.get(job.id)).status is JobStatus.RUNNING


async def test_a_lost_claim_cannot_complete_and_what_it_did_is_undone(store: Store, holder: Holder, job: Job) -> None:
    await lose(store, holder, job)

    with pytest.raises(LeaseLost, match="no longer current; nothing was written"):
        async with store.complete(job) as conn:
            await store.enqueue("u", conn=conn)

    async def complete_in_a_transaction() -> None:
        async with store.transaction() as tx:
            await store.enqueue("u", conn=tx)
            await store.complete_on(tx, job)

    with pytest.raises(LeaseLost):
        await complete_in_a_transaction()

    assert await store.pickup("me", job_types=["u"]) is None
    assert (await store.get(job.id)).status is JobStatus.READY
    assert not await store.was_completed(job)


async def test_a_job_asked_to_cancel_cannot_complete_and_what_it_did_is_undone(store: Store, job: Job) -> None:
    await store.cancel(job.id)

    with pytest.raises(JobCancelled, match="nothing was written"):
        async with store.complete(job) as conn:
            await store.enqueue("u", conn=conn)
    with pytest.raises(JobCancelled):
        async with store.transaction() as tx:
            await store.complete_on(tx, job)

    assert await store.pickup("me") is None
    assert (await store.get(job.id)).status is JobStatus.RUNNING


async def test_a_job_without_a_claim_cannot_complete(store: Store) -> None:
    waiting = await store.get(await store.enqueue("t"))

    with pytest.raises(LeaseLost, match="is not claimed"):
        async with store.complete(waiting):
            pytest.fail("the block was entered")


async def test_a_result_that_cannot_be_stored_is_refused_before_anything_is_begun(store: Store, job: Job) -> None:
    with pytest.raises(PayloadError, match="result cannot be stored"):
        async with store.complete(job, result=object()):
            pytest.fail("the block was entered")

    assert (await store.get(job.id)).status is JobStatus.RUNNING


@pytest.mark.parametrize("commits", [True, False])
async def test_a_job_completed_in_a_transaction_is_done_when_that_is_committed(
    store: Store, job: Job, commits: bool
) -> None:
    with suppress(RolledBack):
        async with store.transaction() as tx:
            await store.complete_on(tx, job, result="x")
            assert job.status is JobStatus.RUNNING
            if not commits:
                raise RolledBack

    assert await store.was_completed(job) is commits
    after = await store.get(job.id)
    assert (after.status, after.result) == ((JobStatus.DONE, "x") if commits else (JobStatus.RUNNING, None))


async def test_completing_on_a_connection_without_a_transaction_is_refused(store: Store, job: Job) -> None:
    async with store.connection() as conn:
        with pytest.raises(NotInTransaction, match="in no transaction"):
            await store.complete_on(conn, job)

    assert (await store.get(job.id)).status is JobStatus.RUNNING


async def test_while_a_completion_is_on_its_way_nobody_else_settles_or_takes_the_job(
    store: Store, worker: RegisteredWorker, postgres_only: None
) -> None:
    await store.enqueue("t")
    job = await worker.claim_one()
    async with store.transaction() as tx:
        await store.complete_on(tx, job)
        assert await worker.settle(job, Verb.RETRY) is Verdict.BUSY
        assert not await worker.engine.unregister(worker.id)
        assert await worker.engine.reap("nobody") == []
        assert await worker.disown() == []

    assert (await store.get(job.id)).status is JobStatus.DONE
    assert await worker.settle(job, Verb.DONE) is Verdict.ALREADY


async def test_whether_a_job_was_completed_is_known_when_the_transaction_has_ended(store: Store, job: Job) -> None:
    async with store.transaction() as tx:
        await store.complete_on(tx, job)
        waiting = asyncio.create_task(store.was_completed(job))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done

    assert await waiting


async def test_a_job_completed_and_run_again_was_not_completed_by_the_later_claim(
    store: Store, holder: Holder, job: Job
) -> None:
    async with store.complete(job):
        pass
    await store.retry(job.id)
    again = await holder.claim_one()

    assert not await store.was_completed(job)
    assert not await store.was_completed(again)


@pytest.mark.usefixtures("postgres_only")
async def test_whether_a_job_was_completed_is_known_also_when_it_was_pruned(store: Store, job: Job) -> None:
    async with store.complete(job):
        pass
    assert await store.prune(timedelta(0), None) == (None, 1)

    assert await store.was_completed(job)


async def test_whether_a_job_was_completed_is_not_waited_for_for_ever(
    store: Store, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "LOOKUP_SECONDS", 0.05)
    monkeypatch.setattr(memory, "LOCK_WAIT", 0.05)

    async with store.transaction() as tx:
        await store.complete_on(tx, job)
        with pytest.raises(TimeoutError):
            await store.was_completed(job)


async def test_a_result_that_cannot_be_stored_leaves_the_callers_transaction_as_it_was(store: Store, job: Job) -> None:
    async with store.transaction() as tx:
        with pytest.raises(PayloadError, match="result cannot be stored"):
            await store.complete_on(tx, job, result=object())
        await store.complete_on(tx, job, result="fine")

    assert (await store.get(job.id)).result == "fine"
