import asyncio
from datetime import timedelta

import asyncpg
import pytest

from pqlite import PgJobStore

DAY, WEEK = timedelta(days=1), timedelta(days=7)


@pytest.fixture
async def history(store: PgJobStore, conn: asyncpg.Connection) -> None:
    """Every status, ten times, eight days old; and once more, an hour old."""
    await conn.execute(
        """
        insert into pqlite.jobs (job_type, status, locked_by, created_at, finished_at)
        select age::text, status, case when status = 'RUNNING' then 'somebody' end, now() - age,
               case when status in ('DONE', 'FAILED', 'CANCELLED') then now() - age end
        from (values (interval '8 days', 10), (interval '1 hour', 1)) a (age, copies),
             unnest('{READY,BLOCKED,RUNNING,DONE,FAILED,CANCELLED}'::text[]) status,
             generate_series(1, copies)
        order by age desc
        """
    )


async def counts(conn: asyncpg.Connection) -> dict[str, int]:
    return dict(await conn.fetch("select status, count(*) from pqlite.jobs group by 1"))


async def prune_all(store: PgJobStore, done: timedelta | None, failed: timedelta | None, chunk: int) -> int:
    total, cursor = 0, None
    while True:
        cursor, deleted = await store.prune(done, failed, cursor, chunk=chunk)
        total += deleted
        if cursor is None and not deleted:
            return total


UNTOUCHED = {"READY": 11, "BLOCKED": 11, "RUNNING": 11}


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize(
    ("done", "failed", "left"),
    [
        (WEEK, WEEK, {"DONE": 1, "FAILED": 1, "CANCELLED": 1}),
        (timedelta(0), None, {"FAILED": 11, "CANCELLED": 11}),
        (None, timedelta(0), {"DONE": 11}),
        (None, None, {"DONE": 11, "FAILED": 11, "CANCELLED": 11}),
        (30 * DAY, WEEK, {"DONE": 11, "FAILED": 1, "CANCELLED": 1}),
    ],
)
async def test_only_finished_jobs_beyond_their_retention_are_deleted(
    store: PgJobStore,
    conn: asyncpg.Connection,
    done: timedelta | None,
    failed: timedelta | None,
    left: dict[str, int],
    chunk: int,
) -> None:
    deleted = await prune_all(store, done, failed, chunk)

    assert await counts(conn) == UNTOUCHED | left
    assert deleted == 66 - sum(left.values()) - 33


@pytest.mark.usefixtures("history")
async def test_the_walk_ends_where_younger_jobs_begin(store: PgJobStore) -> None:
    cursor, deleted = await store.prune(WEEK, None, None, chunk=60)
    assert (cursor, deleted) == (60, 10)

    cursor, deleted = await store.prune(WEEK, None, cursor, chunk=6)
    assert (cursor, deleted) == (None, 0)


async def test_pruning_an_empty_table_does_nothing(store: PgJobStore) -> None:
    assert await store.prune(WEEK, WEEK) == (None, 0)


@pytest.mark.usefixtures("history")
async def test_a_second_pruner_does_nothing_while_the_first_is_at_work(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    async with conn.transaction():
        first = await conn.fetchrow("select * from pqlite.prune('7 days', '7 days', null, 5)")
        assert first is not None
        assert first["deleted"] == 5

        assert await store.prune(timedelta(0), timedelta(0)) == (None, 0)


@pytest.mark.usefixtures("history")
async def test_pruners_at_once_delete_each_job_once(store: PgJobStore, conn: asyncpg.Connection) -> None:
    async with asyncio.TaskGroup() as tasks:
        pruners = [tasks.create_task(prune_all(store, WEEK, WEEK, 3)) for _ in range(5)]

    left_over = await prune_all(store, WEEK, WEEK, 1000)
    assert sum(pruner.result() for pruner in pruners) + left_over == 30
    assert await counts(conn) == UNTOUCHED | {"DONE": 1, "FAILED": 1, "CANCELLED": 1}


@pytest.mark.usefixtures("history")
async def test_a_finished_job_that_is_being_retried_is_not_deleted(store: PgJobStore, conn: asyncpg.Connection) -> None:
    jobs = await conn.fetch("select min(id) from pqlite.jobs where status in ('DONE', 'FAILED') group by status")
    retried = [job[0] for job in jobs]

    async with conn.transaction():
        for job_id in retried:
            await conn.execute("select pqlite.retry($1)", job_id)
        await prune_all(store, WEEK, WEEK, 1000)

    for job_id in retried:
        assert (await store.get(job_id)).status == "READY"
