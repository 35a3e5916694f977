"""What is peculiar to jobs in memory: the clock, and being shared by threads and event loops."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest

from pqlite import ConfigurationError, JobContext, JobStatus, Worker
from pqlite.testing import Clock, MemoryJobStore
from pqlite.testing.memory import store as memory
from tests.support import until

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


async def nothing(ctx: JobContext) -> None:
    """Succeed."""


async def test_a_clock_that_was_given_a_time_stands_until_it_is_moved() -> None:
    clock = Clock(NOON)
    async with MemoryJobStore(clock=clock) as store:
        job_id = await store.enqueue("t", run_after=timedelta(hours=1))
        assert (await store.get(job_id)).created_at == NOON

        assert clock.advance(timedelta(minutes=59, seconds=59)) == NOON + timedelta(minutes=59, seconds=59)
        assert await store.pickup("me") is None
        store.clock.advance(timedelta(seconds=1))
        job = await store.pickup("me")

        assert job is not None
        assert (job.id, job.locked_at) == (job_id, NOON + timedelta(hours=1))


def test_a_clock_without_a_time_goes_like_the_machines_and_keeps_what_it_was_set_forward() -> None:
    clock = Clock()
    before = datetime.now(UTC)
    assert before <= clock.now() <= datetime.now(UTC)

    clock.advance(timedelta(days=1))

    assert clock.now() - before >= timedelta(days=1)


def test_a_clock_is_not_set_back() -> None:
    with pytest.raises(ValueError, match="set forward"):
        Clock().advance(timedelta(seconds=-1))


def test_a_worker_refuses_it_and_says_what_to_do_instead() -> None:
    with pytest.raises(ConfigurationError, match=r"A Worker needs PostgreSQL.*drain\(\).*pqlite_store"):
        Worker(MemoryJobStore(), {"t": nothing})  # type: ignore[arg-type]


async def test_what_was_enqueued_is_there_when_the_store_is_started_again() -> None:
    store = MemoryJobStore()
    async with store:
        job_id = await store.enqueue("t")
    async with store:
        assert (await store.get(job_id)).status is JobStatus.READY


def test_threads_that_enqueue_and_pick_up_at_once_lose_and_share_nothing() -> None:
    store = MemoryJobStore()
    picked: list[int] = []

    async def work() -> None:
        for n in range(100):
            await store.enqueue("t", dedupe_key=f"k{n}")
            if (job := await store.pickup("me")) is not None:
                picked.append(job.id)
                await store.mark_done(job)

    asyncio.run(store.start())
    threads = [threading.Thread(target=asyncio.run, args=(work(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    jobs = asyncio.run(store.jobs())
    assert len(picked) == len(set(picked)) == sum(job.status is JobStatus.DONE for job in jobs)
    assert {job.claims for job in jobs} <= {0, 1}


async def test_a_transaction_is_waited_for_from_another_event_loop() -> None:
    async with MemoryJobStore() as store:
        async with store.transaction() as tx:
            first = await store.enqueue("t", dedupe_key="k", conn=tx)
            found: list[int] = []
            rival = threading.Thread(target=lambda: found.append(asyncio.run(store.enqueue("t", dedupe_key="k"))))
            rival.start()

        await until(lambda: not rival.is_alive())

    assert found == [first]


async def test_who_waits_for_a_transaction_that_waits_for_him_is_told_so_and_does_not_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "LOCK_WAIT", 0.05)
    async with MemoryJobStore() as store:
        await store.enqueue("t")
        job = await store.pickup("me")
        assert job is not None
        async with store.transaction() as tx:
            await store.cancel(job.id, conn=tx)
            for verb in (store.cancel, store.retry, store.mark_done):
                with pytest.raises(TimeoutError, match="An open transaction"):
                    await verb(job.id)

        assert await store.cancel(job.id) is JobStatus.RUNNING


async def test_jobs_tells_everything_in_order_and_what_a_transaction_sees() -> None:
    async with MemoryJobStore() as store:
        first = await store.enqueue("a")
        async with store.transaction() as tx:
            second = await store.enqueue("b", conn=tx)
            assert [job.id for job in await store.jobs()] == [first]
            assert [job.id for job in await store.jobs(conn=tx)] == [first, second]
        assert [job.job_type for job in await store.jobs()] == ["a", "b"]
