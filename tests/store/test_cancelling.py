"""Who is cancelled while the database does not answer is not kept waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from pqlite import PgJobStore
from pqlite.store import connecting, deadlines
from tests.faults.proxy import Proxy
from tests.support import until

Act = Callable[[PgJobStore, Callable[[], None]], Awaitable[Any]]


@pytest.fixture
async def proxy(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxy]:
    monkeypatch.setattr(connecting, "REST_SECONDS", 0.1)
    monkeypatch.setattr(deadlines, "ROLLBACK_SECONDS", 0.1)
    async with Proxy(dsn) as between:
        yield between
        await between.heal()


async def a_look(store: PgJobStore, fall_silent: Callable[[], None]) -> None:
    fall_silent()
    await store.get(1)


async def a_keyed_job(store: PgJobStore, fall_silent: Callable[[], None]) -> None:
    fall_silent()
    await store.enqueue("t", dedupe_key="k")


async def a_keyless_job(store: PgJobStore, fall_silent: Callable[[], None]) -> None:
    fall_silent()
    await store.enqueue("t")


async def many_jobs(store: PgJobStore, fall_silent: Callable[[], None]) -> None:
    await store.enqueue_many([{"job_type": "t"}] * 3000, progress=lambda written, total: fall_silent())


async def a_transaction(store: PgJobStore, fall_silent: Callable[[], None]) -> None:
    async with store.transaction() as conn:
        await store.enqueue("t", conn=conn)
        fall_silent()
        await conn.execute("select 1")


async def a_transaction_that_begins(store: PgJobStore, fall_silent: Callable[[], None]) -> None:
    fall_silent()
    async with store.transaction():
        pass


async def a_transaction_between_two_statements(store: PgJobStore, fall_silent: Callable[[], None]) -> None:
    async with store.transaction() as conn:
        await store.enqueue("t", conn=conn)
        fall_silent()
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    "act",
    [
        a_look,
        a_keyed_job,
        a_keyless_job,
        many_jobs,
        a_transaction,
        a_transaction_that_begins,
        a_transaction_between_two_statements,
    ],
)
async def test_a_cancellation_is_delivered_soon_and_the_store_can_be_used_again(act: Act, proxy: Proxy) -> None:
    silent = asyncio.Event()

    def fall_silent() -> None:
        proxy.black_hole(new_ones=False)
        silent.set()

    async with PgJobStore(dsn=proxy.dsn, pool_size=1) as store:
        await store.get(await store.enqueue("t"))  # by now the pool has its connection back
        acting = asyncio.ensure_future(act(store, fall_silent))
        await silent.wait()
        for _ in range(100):  # turns of the loop, until it has asked
            await asyncio.sleep(0)
        acting.cancel()
        await asyncio.wait([acting], timeout=10)
        assert acting.cancelled()
        jobs = await asyncio.wait_for(store.enqueue_many([{"job_type": "t"}]), 10)

    assert len(jobs) == 1


async def test_a_transaction_that_is_cancelled_as_it_begins_leaves_none_behind(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaints: list[object] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_exception_handler", lambda context: complaints.append(context["message"]))
    async with PgJobStore(dsn=proxy.dsn, pool_size=1) as store:
        await store.get(await store.enqueue("t"))
        acting = asyncio.ensure_future(a_transaction_that_begins(store, lambda: proxy.black_hole(new_ones=False)))
        for _ in range(100):  # turns of the loop, until it has asked
            await asyncio.sleep(0)
        acting.cancel()
        await proxy.heal()  # now it begins
        await asyncio.wait([acting], timeout=10)
        async with store.connection() as conn:
            in_transaction = conn.is_in_transaction()

    assert (in_transaction, complaints) == (False, [])


async def test_a_cancellation_that_the_database_answers_to_costs_no_connection(store: PgJobStore) -> None:
    async def pid() -> int:
        async with store.connection() as conn:
            return int(await conn.fetchval("select pg_backend_pid()"))

    async def slow() -> None:
        async with store.connection() as conn:
            asked.set()
            await conn.execute("select pg_sleep(60)")

    async def sleeps() -> bool:
        async with store.connection() as conn:
            return bool(await conn.fetchval("select count(*) from pg_stat_activity where query like '%sleep(60)'"))

    asked = asyncio.Event()
    before = await pid()
    sleeping = asyncio.ensure_future(slow())
    await asked.wait()
    await until(sleeps)
    sleeping.cancel()
    await asyncio.wait([sleeping], timeout=10)

    assert sleeping.cancelled()
    async with store.connection(), store.connection() as conn:
        pids = await conn.fetch("select pid from pg_stat_activity where application_name = 'pqlite'")
    assert before in [row[0] for row in pids]


@pytest.mark.parametrize("given", ["connect", "pool"])
@pytest.mark.parametrize("act", [a_look, a_keyed_job, a_keyless_job, many_jobs])
async def test_a_connect_function_that_raises_a_cancellation_of_its_own_has_failed(act: Act, given: str) -> None:
    async def connect(*args: Any, **options: Any) -> Any:
        token = asyncio.get_running_loop().create_future()
        token.cancel()
        await token  # which somebody else has waited for, and given up

    async with AsyncExitStack() as stack:
        if given == "pool":
            pool = await stack.enter_async_context(asyncpg.create_pool(min_size=0, connect=connect))
            store = PgJobStore(pool=pool)
        else:
            store = PgJobStore(connect=connect)
        await stack.enter_async_context(store)
        acting = asyncio.ensure_future(act(store, lambda: None))
        await asyncio.wait([acting], timeout=5)

        assert acting.done()
        assert not acting.cancelled()
        with pytest.raises(ConnectionError, match="cancelled"):
            await acting
