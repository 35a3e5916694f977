"""Listing, counting and changing jobs, as an operator does it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from pqlite import InvalidJob, JobStatus, PgJobStore
from pqlite.operations import Action, Changed, JobFilter, Operations


@pytest.fixture
def operations(store: PgJobStore) -> Operations:
    return Operations(store, actor="ada")


async def some_jobs(store: PgJobStore) -> None:
    await store.enqueue("mail", {"to": "a", "n": {"x": 1}}, queue="q1", tags=["red", "big"], dedupe_key="k1")
    await store.enqueue("mail", {"to": "b"}, queue="q2", metadata={"tenant": 7}, run_after=timedelta(hours=1))
    await store.enqueue("report", {"to": "a"}, queue="q2", tags=["blue"], concurrency_key="k1")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (JobFilter(), [3, 2, 1]),
        (JobFilter(status="READY", job_type="mail"), [2, 1]),
        (JobFilter(status=["DONE", "FAILED"]), []),
        (JobFilter(queue="q2"), [3, 2]),
        (JobFilter(queue=["q1", "q2"], job_type=["report"]), [3]),
        (JobFilter(tag="red"), [1]),
        (JobFilter(tag=["red", "blue"]), [3, 1]),
        (JobFilter(key="k1"), [3, 1]),
        (JobFilter(payload={"to": "a"}), [3, 1]),
        (JobFilter(payload={"n": {"x": 1}}), [1]),
        (JobFilter(metadata={"tenant": 7}), [2]),
        (JobFilter(due_after=datetime.now(UTC) + timedelta(minutes=30)), [2]),
        (JobFilter(created_before=datetime.now(UTC) - timedelta(hours=1)), []),
        (JobFilter(ids=[3, 1, 99]), [3, 1]),
        (JobFilter(worker="me"), []),
        (JobFilter(queue="'; drop table pqlite.jobs --"), []),
    ],
)
async def test_a_filter_finds_the_jobs_that_match_all_of_it(
    store: PgJobStore, operations: Operations, wanted: JobFilter, found: list[int]
) -> None:
    await some_jobs(store)

    page = await operations.list_jobs(wanted)

    assert ([job.id for job in page.jobs], page.cursor) == (found, None)
    assert (await operations.count(wanted)).number == len(found)


async def test_running_jobs_are_found_by_their_worker_and_failed_ones_by_their_error(
    store: PgJobStore, operations: Operations
) -> None:
    await store.enqueue("a")
    await store.enqueue("b", max_attempts=1)
    first, second = await store.pickup("host-1"), await store.pickup("host-2")
    assert first is not None
    assert second is not None
    await store.mark_error(second, "Timeout of the provider")

    assert [job.id for job in (await operations.list_jobs(JobFilter(worker="host-1"))).jobs] == [first.id]
    failed = JobFilter(status="FAILED", error="TIMEOUT", finished_after=datetime.now(UTC) - timedelta(hours=1))
    assert [job.id for job in (await operations.list_jobs(failed)).jobs] == [second.id]


@pytest.mark.parametrize("status", [None, "READY", "CANCELLED"])
async def test_the_pages_of_a_list_have_each_job_once_also_if_a_search_is_cut_short(
    store: PgJobStore, operations: Operations, conn: asyncpg.Connection, status: str | None
) -> None:
    await conn.execute("insert into pqlite.jobs (job_type) select 't' from generate_series(1, 30)")
    if status == "CANCELLED":
        await conn.execute("update pqlite.jobs set status = 'CANCELLED', finished_at = now() - id / 3 * interval '1 s'")
    seen, cursor = [], None
    while True:
        page = await operations.list_jobs(JobFilter(status=status), cursor=cursor, limit=7)
        seen += [job.id for job in page.jobs]
        if (cursor := page.cursor) is None:
            break

    assert sorted(seen) == list(range(1, 31))
    scanned = 'select ids, next_id from pqlite.find_jobs(\'{"job_type": "none"}\', max_scanned => 10)'
    assert await conn.fetchrow(scanned) == ([], 21)


@pytest.mark.parametrize(
    ("action", "value", "before", "changed", "after"),
    [
        ("retry", None, "FAILED", 2, {"status": "READY"}),
        ("retry", None, "READY", 0, {"status": "READY"}),
        ("cancel", None, "READY", 2, {"status": "CANCELLED"}),
        ("cancel", None, "FAILED", 0, {"status": "FAILED"}),
        ("set_queue", "slow", "READY", 2, {"queue": "slow"}),
        ("set_priority", 7, "READY", 2, {"priority": 7}),
        ("set_priority", 7, "FAILED", 0, {"priority": 0}),
    ],
)
async def test_a_change_affects_the_jobs_to_which_it_applies(
    store: PgJobStore,
    operations: Operations,
    conn: asyncpg.Connection,
    action: Action,
    value: Any,
    before: str,
    changed: int,
    after: dict[str, Any],
) -> None:
    ids = [await store.enqueue("t") for _ in range(2)]
    await store.enqueue("other")
    await conn.execute("update pqlite.jobs set status = $1, finished_at = now()", before)

    done = await operations.change(action, JobFilter(job_type="t"), value=value)

    assert done == Changed(2, changed)
    for job_id in ids:
        job = await store.get(job_id)
        assert {name: getattr(job, name) for name in after} == after
    told = await conn.fetch("select actor, action, target, changed from pqlite.audit")
    assert [tuple(row) for row in told] == ([("ada", action, '{"job_type": "t"}', 2)] if changed else [])


async def test_a_move_to_another_queue_lands_behind_no_watermark(
    store: PgJobStore, operations: Operations, conn: asyncpg.Connection
) -> None:
    job_id = await store.enqueue("t", run_after=datetime.now(UTC) - timedelta(hours=1))
    mark = await conn.fetchval("select clock_timestamp()")

    await operations.set_queue(JobFilter(ids=[job_id]), "other")

    assert (await store.get(job_id)).run_after > mark


async def test_run_now_makes_only_later_jobs_due(
    store: PgJobStore, operations: Operations, conn: asyncpg.Connection
) -> None:
    later = await store.enqueue("t", run_after=timedelta(days=1))
    due = await store.get(await store.enqueue("t"))

    assert await operations.run_now(JobFilter(job_type="t")) == Changed(2, 1)

    assert (await store.get(due.id)).run_after == due.run_after
    assert (await store.get(later)).run_after <= await conn.fetchval("select clock_timestamp()")


async def test_delete_leaves_jobs_that_have_not_ended(store: PgJobStore, operations: Operations) -> None:
    waiting, ended = await store.enqueue("t"), await store.enqueue("t")
    await store.cancel(ended)

    assert await operations.delete(JobFilter(job_type="t")) == Changed(2, 1)

    assert [job.id for job in (await operations.list_jobs()).jobs] == [waiting]


async def test_a_retry_skips_a_key_that_a_newer_job_holds(store: PgJobStore, operations: Operations) -> None:
    old = await store.enqueue("t", dedupe_key="k")
    free = await store.enqueue("t", dedupe_key="l")
    await operations.cancel(JobFilter(job_type="t"))
    await store.enqueue("t", dedupe_key="k")

    assert await operations.retry(JobFilter(status="CANCELLED")) == Changed(2, 1)

    assert (await store.get(old)).status is JobStatus.CANCELLED
    assert (await store.get(free)).status is JobStatus.READY


async def test_a_change_skips_jobs_that_others_have_locked(
    store: PgJobStore, operations: Operations, conn: asyncpg.Connection
) -> None:
    locked, free = await store.enqueue("t"), await store.enqueue("t")
    async with conn.transaction():
        await conn.execute("select from pqlite.jobs where id = $1 for update", locked)

        assert await operations.cancel(JobFilter(job_type="t")) == Changed(2, 1)

    assert (await store.get(free)).status is JobStatus.CANCELLED


async def test_a_change_of_many_jobs_goes_in_chunks_and_tells_how_far_it_is(
    store: PgJobStore, operations: Operations, conn: asyncpg.Connection
) -> None:
    await conn.execute("insert into pqlite.jobs (job_type) select 't' from generate_series(1, 1200)")
    told: list[Changed] = []

    await operations.cancel(JobFilter(job_type="t"), progress=told.append)

    assert told == [Changed(500, 500), Changed(1000, 1000), Changed(1200, 1200)]
    assert await operations.delete(JobFilter(status="CANCELLED"), limit=600) == Changed(600, 600)
    assert str(await operations.count(cap=100)) == "100+"


@pytest.mark.parametrize(
    ("action", "value"),
    [("vanish", None), ("retry", 3), ("set_queue", None), ("set_queue", ""), ("set_priority", "high")],
)
async def test_a_change_that_makes_no_sense_is_refused(operations: Operations, action: Any, value: Any) -> None:
    with pytest.raises(InvalidJob):
        await operations.change(action, JobFilter(), value=value)


def test_an_unknown_status_is_refused() -> None:
    with pytest.raises(InvalidJob, match="status must be one of READY"):
        JobFilter(status="failed")
