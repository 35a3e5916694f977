"""A worker whose claim is no longer current can change nothing, by any verb."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import pytest

from pqlite import LeaseLost, PgJobStore
from pqlite.job import Job
from pqlite.outcome import Verb, Verdict
from tests.store.conftest import Register
from tests.store.workers import RegisteredWorker, fetch_job, make_steady, silence


@dataclass
class Stale:
    """A worker that was declared dead, and the job it thinks it holds; another worker holds it now, or has ended it."""

    worker: RegisteredWorker
    job: Job


@pytest.fixture(params=["READY", "RUNNING", "DONE", "FAILED"])
async def stale(
    request: pytest.FixtureRequest, store: PgJobStore, conn: asyncpg.Connection, register: Register
) -> Stale:
    old, new = await register(), await register()
    await store.enqueue("t")
    job = await old.claim_one()
    await silence(conn, old, 60)
    await make_steady(conn, new)
    assert [taken.id for taken in await new.engine.reap(new.id)] == [job.id]
    if request.param != "READY":
        claim = await new.claim_one()
        if request.param != "RUNNING":
            await new.settle(claim, Verb[request.param], result='"the new one"')
    return Stale(old, job)


@pytest.fixture
async def unchanged(stale: Stale, conn: asyncpg.Connection) -> Callable[[], Awaitable[bool]]:
    before = await fetch_job(conn, stale.job.id)

    async def check() -> bool:
        return await fetch_job(conn, stale.job.id) == before

    return check


@pytest.mark.parametrize("verb", list(Verb))
async def test_a_reaped_workers_outcome_is_refused(
    stale: Stale, unchanged: Callable[[], Awaitable[bool]], verb: Verb
) -> None:
    verdict = await stale.worker.settle(stale.job, verb, result='"the old one"', error="old", delay=5.0)

    assert verdict is Verdict.FENCED
    assert await unchanged()


async def test_a_reaped_worker_cannot_renew_or_claim(
    store: PgJobStore, stale: Stale, unchanged: Callable[[], Awaitable[bool]]
) -> None:
    waiting = await store.enqueue("t")
    with pytest.raises(LeaseLost, match="was declared dead"):
        await stale.worker.engine.renew(stale.worker.id, timedelta(seconds=20), None, deadline=5.0)
    with pytest.raises(LeaseLost, match="was declared dead"):
        await stale.worker.claim(suspect=True)
    assert (await store.get(waiting)).claims == 0
    assert await unchanged()


async def test_a_reaped_worker_cannot_complete_and_what_it_wrote_is_rolled_back(
    store: PgJobStore, conn: asyncpg.Connection, stale: Stale, unchanged: Callable[[], Awaitable[bool]]
) -> None:
    await conn.execute("create table ledger (line text)")

    with pytest.raises(LeaseLost, match=f"The claim on job {stale.job.id} is no longer current"):
        async with store.complete(stale.job, result="the old one") as own:
            await own.execute("insert into ledger values ('old')")

    assert await conn.fetchval("select count(*) from ledger") == 0
    assert await unchanged()


async def test_a_stale_claim_can_be_marked_neither_done_nor_failed(
    store: PgJobStore, stale: Stale, unchanged: Callable[[], Awaitable[bool]]
) -> None:
    with pytest.raises(LeaseLost, match="no longer current"):
        await store.mark_done(stale.job, result="the old one")
    for terminal in (True, False):
        with pytest.raises(LeaseLost, match="no longer current"):
            await store.mark_error(stale.job, "old", terminal=terminal)
    assert await unchanged()


async def test_a_reaped_worker_cannot_release_what_is_held_by_another(
    stale: Stale, unchanged: Callable[[], Awaitable[bool]]
) -> None:
    assert await stale.worker.disown() == []
    assert await unchanged()
