"""Waiting for jobs of a real database: with few connections, and through bad weather."""

import asyncio
from typing import Any

import asyncpg
import pytest

from pqlite import JobFailed, JobTimeoutError, NotStarted, PgJobStore, Worker
from pqlite.store import awaiting
from pqlite.store.awaiting import Ended
from tests.faults.proxy import Proxy
from tests.store.workers import RegisteredWorker
from tests.support import until


async def test_who_waits_holds_no_connection(dsn: str) -> None:
    async with PgJobStore(dsn=dsn, pool_size=1) as store:
        jobs = await store.enqueue_many({"job_type": "t"} for _ in range(200))
        waiting = [asyncio.create_task(store.wait_for(job.id, poll_interval=0.01)) for job in jobs]

        while (job := await store.pickup("me")) is not None:
            await store.mark_done(job, result=job.id)

        assert [(await task).result for task in waiting] == [job.id for job in jobs]


async def test_a_worker_of_the_same_store_tells_who_waits_at_once(
    store: PgJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awaiting, "FIRST_PAUSE", 3600.0)
    told, go = asyncio.Event(), asyncio.Event()
    look = store._watcher._look

    async def looked(job_ids: list[int]) -> Any:
        found = await look(job_ids)
        told.set()
        return found

    store._watcher._look = looked

    async def plain(_ctx: Any) -> int:
        await go.wait()
        return 1

    async def completing(ctx: Any) -> None:
        await go.wait()
        async with ctx.complete(result=2):
            pass

    async with Worker(store=store, handlers={"plain": plain, "completing": completing}):
        for job_type, result in (("plain", 1), ("completing", 2)):
            waiting = asyncio.create_task(store.wait_for(await store.enqueue(job_type), poll_interval=3600))
            await told.wait()
            go.set()
            assert (await waiting).result == result
            told.clear()
            go.clear()


async def test_a_store_that_is_started_again_in_another_event_loop_waits_there_too(dsn: str) -> None:
    store = PgJobStore(dsn=dsn)

    async def once() -> None:
        async with store:
            job_id = await store.enqueue("t")
            waiting = asyncio.create_task(store.wait_for(job_id, timeout=10))
            with pytest.raises(JobTimeoutError):
                await store.wait_for(job_id, timeout=0.05)
            claimed = await store.pickup("me")
            assert claimed is not None
            await store.mark_done(claimed, result=1)
            assert (await waiting).result == 1

    for _ in range(2):
        await asyncio.to_thread(lambda: asyncio.run(once()))


async def test_who_waits_for_a_job_is_told_at_once_that_this_store_cancelled_it(
    store: PgJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awaiting, "FIRST_PAUSE", 3600.0)
    job_id = await store.enqueue("t")
    waiting = asyncio.create_task(store.wait_for(job_id, poll_interval=3600, raise_on_failure=False))
    await until(lambda: any(waiter.looked.is_set() for waiter in store._watcher._waiters))

    await store.cancel(job_id)

    assert (await waiting).status == "CANCELLED"


async def test_waiting_goes_on_when_the_connection_is_lost(dsn: str) -> None:
    async with Proxy(dsn) as proxy, PgJobStore(dsn=proxy.dsn) as store, PgJobStore(dsn=dsn) as direct:
        job_id = await store.enqueue("t")
        waiting = asyncio.create_task(store.wait_for(job_id, timeout=None, poll_interval=0.05))
        await until(lambda: store._watcher._task is not None)
        for _ in range(3):
            proxy.reset()
            await asyncio.sleep(0.02)

        claimed = await direct.pickup("me")
        assert claimed is not None
        await direct.mark_done(claimed, result="through")

        assert (await waiting).result == "through"


async def test_who_waits_is_told_that_the_given_pool_was_closed(dsn: str) -> None:
    pool = await asyncpg.create_pool(dsn, min_size=0)
    async with PgJobStore(pool=pool) as store:
        job_id = await store.enqueue("t")
        waiting = asyncio.create_task(store.wait_for(job_id, timeout=None, poll_interval=0.01))
        await asyncio.sleep(0)
        await pool.close()

        with pytest.raises(NotStarted, match="pool that the store was given is closed"):
            await waiting
        with pytest.raises(NotStarted, match="pool that the store was given is closed"):
            await store.enqueue("t")


async def test_a_result_that_python_cannot_read_is_the_error_of_its_own_waiter(store: PgJobStore) -> None:
    jobs = await store.enqueue_many([{"job_type": "t"}] * 2)
    async with store.connection() as conn:
        await conn.execute(
            "update pqlite.jobs set status = 'DONE', finished_at = now(), "
            "result = case when id = $1 then repeat('9', 5000)::jsonb else '1' end",
            jobs[0].id,
        )

    first, second = await asyncio.gather(*(store.wait_for(job.id) for job in jobs), return_exceptions=True)

    assert isinstance(first, ValueError)
    assert not isinstance(second, BaseException)
    assert second.result == 1


async def test_looks_find_what_has_ended_and_what_is_gone_among_many(
    store: PgJobStore, worker: RegisteredWorker
) -> None:
    jobs = [job.id for job in await store.enqueue_many([{"job_type": "t"}] * 3)]
    await store.cancel(jobs[0])
    claimed = await worker.claim(1)

    found = await store._ended([*jobs, 404])

    assert {each.id: each.status for each in found} == {jobs[0]: "CANCELLED", 404: None}
    assert all(isinstance(each, Ended) for each in found)
    assert claimed


async def test_who_waits_in_another_event_loop_is_told_so_also_while_others_wait(store: PgJobStore) -> None:
    job_id = await store.enqueue("t")
    waiting = asyncio.create_task(store.wait_for(job_id, timeout=None))
    await until(lambda: store._watcher._task is not None)

    with pytest.raises(NotStarted, match="in another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(store.wait_for(job_id, timeout=0.1)))

    await store.cancel(job_id)
    with pytest.raises(JobFailed):
        await waiting
