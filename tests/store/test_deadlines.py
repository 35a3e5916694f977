"""A network that has fallen silent holds nobody for longer than the store's timeout; a slow database is waited for."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from pqlite import ConfigurationError, NewJob, PgJobStore, StoreTimeout
from pqlite.errors import PqliteError
from pqlite.store import completion, connecting, deadlines
from pqlite.store.deadlines import while_answering
from tests.faults.proxy import Proxy

TIMEOUT = 0.3

Act = Callable[[PgJobStore], Awaitable[Any]]


@pytest.fixture
async def proxy(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxy]:
    monkeypatch.setattr(deadlines, "ROLLBACK_SECONDS", 0.1)
    monkeypatch.setattr(connecting, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(connecting, "REST_SECONDS", 0.1)
    async with Proxy(dsn) as between:
        yield between
        await between.heal()


async def completes_a_job(store: PgJobStore, fall_silent: Callable[[], None]) -> None:
    job = await store.pickup("w")
    assert job is not None
    async with store.complete(job):
        fall_silent()


async def commits(store: PgJobStore, fall_silent: Callable[[], None]) -> None:
    async with store.transaction() as conn:
        await store.enqueue("t", conn=conn)
        fall_silent()


async def marks_done(store: PgJobStore, fall_silent: Callable[[], None]) -> None:
    job = await store.pickup("w")
    assert job is not None
    fall_silent()
    await store.mark_done(job)


def at_once(act: Act) -> Callable[[PgJobStore, Callable[[], None]], Awaitable[None]]:
    async def silent_first(store: PgJobStore, fall_silent: Callable[[], None]) -> None:
        fall_silent()
        await act(store)

    return silent_first


ACTS = {
    "enqueue": at_once(lambda store: store.enqueue("t")),
    "enqueue with a key": at_once(lambda store: store.enqueue("t", dedupe_key="k")),
    "enqueue_many": at_once(lambda store: store.enqueue_many([NewJob(job_type="t")] * 3)),
    "get": at_once(lambda store: store.get(1)),
    "cancel": at_once(lambda store: store.cancel(1)),
    "retry": at_once(lambda store: store.retry(1)),
    "pickup": at_once(lambda store: store.pickup("w")),
    "mark_done": marks_done,
    "reap_stale": at_once(lambda store: store.reap_stale()),
    "prune": at_once(lambda store: store.prune(None, None)),
    "check_schema": at_once(lambda store: store.check_schema()),
    "migrate": at_once(lambda store: store.migrate()),
    "complete": completes_a_job,
    "commit": commits,
}


@pytest.mark.parametrize("new_ones", [False, True], ids=["open connections", "every connection"])
@pytest.mark.parametrize("name", ACTS)
async def test_a_silent_network_ends_every_verb_with_an_error_that_says_what_may_have_happened(
    name: str, new_ones: bool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "LOOKUP_SECONDS", 0.1)
    monkeypatch.setattr(completion, "COMMIT_SECONDS", TIMEOUT)
    async with PgJobStore(dsn=proxy.dsn, timeout=TIMEOUT, pool_size=1) as store:
        await store.enqueue("t")
        async with store.connection():
            pass  # the pool has its connection back
        began = time.monotonic()

        with pytest.raises(StoreTimeout) as caught:
            await ACTS[name](store, lambda: proxy.black_hole(new_ones=new_ones))

        assert caught.value.may_have_happened
        assert time.monotonic() - began < 10 * TIMEOUT
        await proxy.heal()
        assert await store.enqueue("t") > 0  # on a new connection


async def test_callers_whose_jobs_share_a_statement_all_hear_that_it_was_not_answered(proxy: Proxy) -> None:
    async with PgJobStore(dsn=proxy.dsn, timeout=TIMEOUT, pool_size=1) as store:
        await store.enqueue("t")
        proxy.black_hole(new_ones=False)

        errors = await asyncio.gather(*(store.enqueue("t") for _ in range(20)), return_exceptions=True)

        assert {type(error) for error in errors} == {StoreTimeout}
        assert await store.enqueue("t") > 0


async def test_where_the_pool_has_nothing_to_give_nothing_has_happened(dsn: str) -> None:
    async with PgJobStore(dsn=dsn, timeout=0.05, pool_size=1) as store, store.connection():
        with pytest.raises(StoreTimeout) as caught:
            await store.get(1)

    assert not caught.value.may_have_happened


async def test_an_answer_counts_although_the_connection_falls_silent_after_it(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "RESET_SECONDS", 0.05)
    async with Proxy(dsn) as proxy, PgJobStore(dsn=proxy.dsn, pool_size=1, timeout=5) as store:
        async with store.connection() as conn:
            assert await conn.fetchval("select 1") == 1
            proxy.black_hole(new_ones=False)

        assert await store.enqueue("t") > 0


async def test_many_statements_may_take_longer_than_the_timeout_of_one(dsn: str, conn: asyncpg.Connection) -> None:
    await conn.execute(
        "create function public.linger() returns trigger language plpgsql as $$ begin perform pg_sleep(0.2); "
        "return null; end $$; "
        "create trigger linger after insert on pqlite.jobs for each statement execute function public.linger()"
    )
    async with PgJobStore(dsn=dsn, timeout=4 * TIMEOUT) as store:
        began = time.monotonic()
        verdicts = await store.enqueue_many([NewJob(job_type="t")] * 20_000)

    assert len(verdicts) == 20_000
    assert time.monotonic() - began > 4 * TIMEOUT


async def test_ones_own_statements_are_not_cut_off(dsn: str) -> None:
    async with PgJobStore(dsn=dsn, timeout=0.1) as store, store.transaction() as conn:
        await conn.execute("select pg_catalog.pg_sleep(0.3)")


async def test_a_rollback_into_silence_ends_and_the_blocks_own_error_is_told(proxy: Proxy) -> None:
    async with PgJobStore(dsn=proxy.dsn, timeout=TIMEOUT, pool_size=1) as store:

        async def fail_in_silence() -> None:
            async with store.transaction():
                proxy.black_hole(new_ones=False)
                raise LookupError("mine")

        with pytest.raises(LookupError, match="mine"):
            await fail_in_silence()

        assert await store.enqueue("t") > 0


async def test_a_long_statement_goes_on_while_the_database_answers_beside_it(conn: asyncpg.Connection) -> None:
    asked = 0

    async def ask() -> None:
        nonlocal asked
        asked += 1

    async with while_answering(0.02, conn, ask):
        await conn.execute("select pg_catalog.pg_sleep(0.3)")

    assert asked > 1


async def test_a_migration_whose_session_is_gone_without_a_word_ends(dsn: str, conn: asyncpg.Connection) -> None:
    async with Proxy(dsn) as proxy, PgJobStore(dsn=proxy.dsn, timeout=TIMEOUT) as store:

        async def migrate() -> None:
            async with store.migrating() as own:
                proxy.black_hole(new_ones=False, server_hears=True)
                await own.execute("select pg_catalog.pg_sleep(60)")

        with pytest.raises(StoreTimeout):
            await migrate()


async def test_whether_a_job_was_completed_is_not_asked_again_where_asking_is_refused(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await store.enqueue("t")
    job = await store.pickup("w")
    assert job is not None
    await conn.execute("alter table pqlite.jobs rename column claims to renamed")

    with pytest.raises(asyncpg.UndefinedColumnError):
        await store.was_completed(job)


async def test_whether_a_job_was_completed_that_cannot_be_found_out_is_told_by_a_typed_error(
    store: PgJobStore, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "LOOKUP_SECONDS", 0.1)
    await store.enqueue("t")
    job = await store.pickup("w")
    assert job is not None

    async with conn.transaction():
        await conn.execute("select from pqlite.jobs for update")
        with pytest.raises(StoreTimeout, match=f"job {job.id}"):
            await store.was_completed(job)


@pytest.mark.parametrize("timeout", [0, -1, True, "30", None, float("nan"), float("inf")])
def test_a_timeout_that_is_none_is_refused(timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match="timeout must be"):
        PgJobStore(dsn="postgresql://", timeout=timeout)


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(StoreTimeout("late", may_have_happened=True)))

    assert isinstance(error, PqliteError)
    assert (str(error), error.may_have_happened) == ("late", True)
