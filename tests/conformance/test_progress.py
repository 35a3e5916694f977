"""The progress of a running job: who may write it, who sees it, and how often it is written."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from pqlite import InvalidJob, JobContext, LeaseLost, PayloadError, Worker
from pqlite.handlers.progress import INTERVAL
from pqlite.testing import drain
from tests.conformance.conftest import Store
from tests.conformance.scene import locked


async def test_progress_is_seen_until_the_job_is_claimed_again(store: Store) -> None:
    job_id = await store.enqueue("t")
    job = await store.pickup("me")
    assert job is not None
    await store.mark_progress(job, {"pages": 3})
    assert (await store.get(job_id)).progress == {"pages": 3}

    await store.mark_progress(job_id, [4])
    await store.mark_error(job, "broken")
    assert (await store.get(job_id)).progress == [4]
    await store.retry(job_id)
    await store.pickup("me")
    assert (await store.get(job_id)).progress is None


async def test_progress_of_a_claim_that_is_no_longer_current_changes_nothing(store: Store) -> None:
    job_id = await store.enqueue("t")
    stale = await store.pickup("me")
    assert stale is not None
    await store.mark_error(stale, "broken")
    await store.retry(job_id)
    current = await store.pickup("me")
    assert current is not None
    await store.mark_progress(current, 1)

    with pytest.raises(LeaseLost):
        await store.mark_progress(stale, 2)
    assert (await store.get(job_id)).progress == 1


async def test_progress_does_not_wait_for_a_transaction_that_has_locked_the_job(store: Store) -> None:
    job_id = await store.enqueue("t")
    job = await store.pickup("me")
    assert job is not None
    async with locked(store, job_id):
        async with asyncio.timeout(2):
            await store.mark_progress(job, 1)

    assert (await store.get(job_id)).progress is None
    await store.mark_progress(job, 2)
    assert (await store.get(job_id)).progress == 2


async def test_a_handler_shows_its_progress_at_once_and_then_the_latest_in_each_interval(store: Store) -> None:
    seen: list[Any] = []

    async def handler(ctx: JobContext) -> None:
        for step in range(1, 6):
            await ctx.progress(step / 10, f"step {step}", step=step)
        seen.append((await store.get(ctx.job.id)).progress)
        await asyncio.sleep(INTERVAL + 0.2)
        seen.append((await store.get(ctx.job.id)).progress)

    await store.enqueue("t")
    await drain(store, {"t": handler})

    assert [each["data"]["step"] for each in seen] == [1, 5]
    assert seen[0] == {"fraction": 0.1, "message": "step 1", "data": {"step": 1}}


async def test_only_what_was_given_is_stored(store: Store) -> None:
    seen: list[Any] = []

    async def handler(ctx: JobContext) -> None:
        await ctx.progress(message="nearly")
        seen.append((await store.get(ctx.job.id)).progress)

    await store.enqueue("t")
    await drain(store, {"t": handler})

    assert seen == [{"message": "nearly"}]


@pytest.mark.parametrize(
    ("arguments", "data", "error", "reason"),
    [
        ((1.5,), {}, InvalidJob, "from 0 to 1, not 1.5"),
        ((float("nan"),), {}, InvalidJob, "from 0 to 1, not nan"),
        ((True,), {}, InvalidJob, "from 0 to 1, not True"),
        (("half",), {}, InvalidJob, "from 0 to 1, not 'half'"),
        ((0.5, 7), {}, InvalidJob, "must be text, not 7"),
        ((0.5,), {"set": object()}, PayloadError, "set"),
    ],
)
async def test_a_progress_that_makes_no_sense_is_refused(
    store: Store, arguments: tuple[Any, ...], data: dict[str, Any], error: type[Exception], reason: str
) -> None:
    async def handler(ctx: JobContext) -> None:
        with pytest.raises(error, match=reason):
            await ctx.progress(*arguments, **data)

    await store.enqueue("t")
    await drain(store, {"t": handler})


async def test_progress_that_waits_when_the_handler_returns_is_not_written_later(store: Store) -> None:
    async def handler(ctx: JobContext) -> None:
        await ctx.progress(0.1)
        await ctx.progress(0.9)

    job_id = await store.enqueue("t")
    await drain(store, {"t": handler})

    assert not [task for task in asyncio.all_tasks() if task.get_name() == "pqlite progress" and not task.cancelling()]
    assert (await store.get(job_id)).progress == {"fraction": 0.1}


@pytest.mark.usefixtures("postgres_only")
async def test_a_handler_in_a_thread_shows_its_progress(store: Any) -> None:
    def handler(ctx: JobContext) -> Any:
        anyio.from_thread.run(ctx.progress, 0.5)
        return anyio.from_thread.run(store.get, ctx.job.id).progress

    job_id = await store.enqueue("t")
    async with Worker(store=store, handlers={"t": handler}):
        assert (await store.wait_for(job_id)).result == {"fraction": 0.5}


@pytest.mark.usefixtures("postgres_only")
async def test_writing_progress_touches_no_index(store: Any) -> None:
    await store.enqueue("t")
    job = await store.pickup("me")
    counts = "select n_tup_upd, n_tup_hot_upd from pg_stat_get_xact_tuples_updated('pqlite.jobs'::regclass) n_tup_upd, "
    counts += "pg_stat_get_xact_tuples_hot_updated('pqlite.jobs'::regclass) n_tup_hot_upd"

    async with store.transaction() as tx:
        before = await tx.fetchrow(counts)
        for step in range(10):
            await tx.fetchval(
                "select pqlite.progress($1, $2, $3, to_jsonb($4::int))", job.locked_by, job.id, job.claims, step
            )
        after = await tx.fetchrow(counts)

    assert (after[0] - before[0], after[1] - before[1]) == (10, 10)
