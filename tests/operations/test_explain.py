"""Each reason why a job does not run is told."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from pqlite import JobNotFound, PgJobStore
from pqlite.operations import Operations

WORKER = """
    insert into pqlite.workers (id, label, lease_until, dead_at, info) values
      ('w-1', 'w', clock_timestamp() + $1::interval, $2, $3::text::jsonb)
"""


async def worker(conn: asyncpg.Connection, info: str = "{}", *, lease: int = 60, dead: datetime | None = None) -> None:
    await conn.execute(WORKER, timedelta(seconds=lease), dead, info)


async def codes(store: PgJobStore, job_id: int) -> list[str]:
    return [reason.code for reason in await Operations(store).explain(job_id)]


async def test_a_job_that_nothing_keeps_from_running_is_only_due(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await worker(conn)

    assert await codes(store, await store.enqueue("t")) == ["DUE"]


async def test_a_job_of_the_future_says_when_it_is_due(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await worker(conn)
    job_id = await store.enqueue("t", run_after=timedelta(hours=2))

    [reason] = await Operations(store).explain(job_id)

    assert reason.code == "FUTURE"
    assert "in 01:59:5" in reason.text


@pytest.mark.parametrize(
    ("info", "code"),
    [
        (None, "NO_WORKER"),
        ('{"queues": ["other"]}', "NO_WORKER_FOR_QUEUE"),
        ('{"queues": ["q"], "job_types": ["other"]}', "NO_WORKER_FOR_TYPE"),
        ('{"job_types": ["t"], "payload_versions": {"t": 1}}', "NO_WORKER_FOR_VERSION"),
        ('{"queues": ["q"], "job_types": ["t"], "payload_versions": {"t": 2}}', None),
    ],
)
async def test_a_job_that_no_living_worker_serves_says_what_they_lack(
    store: PgJobStore, conn: asyncpg.Connection, info: str | None, code: str | None
) -> None:
    if info is not None:
        await worker(conn, info)
    job_id = await store.enqueue("t", queue="q", metadata={"payload_version": 2})

    assert await codes(store, job_id) == [*([code] if code else []), "DUE"]


@pytest.mark.parametrize(("lease", "dead"), [(-1, None), (60, datetime(2026, 1, 1, tzinfo=UTC))])
async def test_a_dead_or_silent_worker_is_none(
    store: PgJobStore, conn: asyncpg.Connection, lease: int, dead: datetime | None
) -> None:
    await worker(conn, lease=lease, dead=dead)

    assert await codes(store, await store.enqueue("t")) == ["NO_WORKER", "DUE"]


async def test_each_pause_is_told_with_its_reason(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await worker(conn)
    await store.pause(queue="q", reason="it is down", by="ada")
    await store.pause(key="k")
    await store.pause(job_type="other")
    job_id = await store.enqueue("t", queue="q", concurrency_key="k")

    reasons = await Operations(store).explain(job_id)

    assert [reason.code for reason in reasons] == ["PAUSED", "PAUSED", "DUE"]
    assert reasons[1].text.endswith(" by ada: it is down")


async def test_a_suspect_says_how_often_its_workers_died(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await worker(conn)
    job_id = await store.enqueue("t")
    await conn.execute("update pqlite.jobs set crashes = 2, attempts = 2")

    reasons = await Operations(store).explain(job_id)

    assert [reason.code for reason in reasons] == ["SUSPECT", "DUE"]
    assert reasons[0].text.startswith("2 of its workers died")


async def test_a_blocked_job_says_for_how_many_it_waits(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await worker(conn)
    job_id = await store.enqueue("t")
    await conn.execute("update pqlite.jobs set status = 'BLOCKED', waiting_on = 3")

    [reason] = await Operations(store).explain(job_id)

    assert (reason.code, reason.text) == ("BLOCKED", "it waits for 3 other jobs")


async def test_a_job_with_an_end_of_its_time_says_it(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await worker(conn)
    job_id = await store.enqueue("t")
    await conn.execute("update pqlite.jobs set expires_at = now() + interval '1 hour'")

    assert await codes(store, job_id) == ["EXPIRES", "DUE"]


async def test_a_row_that_is_locked_is_told(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await worker(conn)
    job_id = await store.enqueue("t")
    async with conn.transaction():
        await conn.execute("select from pqlite.jobs for update")

        assert await codes(store, job_id) == ["LOCKED", "DUE"]


async def test_jobs_that_come_first_are_counted(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await worker(conn)
    for _ in range(2):
        await store.enqueue("t")
    await store.enqueue("t", queue="other")

    [behind, _] = await Operations(store).explain(await store.enqueue("t"))

    assert (behind.code, behind.text) == ("BEHIND", "2 jobs of its queue, type and priority come first")


@pytest.mark.parametrize(
    ("lease", "expected"), [(None, ["RUNNING", "WORKER_UNKNOWN"]), (60, ["RUNNING"]), (-1, ["RUNNING", "WORKER_DEAD"])]
)
async def test_a_running_job_says_which_worker_runs_it(
    store: PgJobStore, conn: asyncpg.Connection, lease: int | None, expected: list[str]
) -> None:
    job_id = await store.enqueue("t")
    await conn.execute("update pqlite.jobs set status = 'RUNNING', locked_by = 'w-1', locked_at = now()")
    if lease is not None:
        await worker(conn, '{"host": "web1", "pid": 7}', lease=lease)

    reasons = await Operations(store).explain(job_id)

    assert [reason.code for reason in reasons] == expected
    assert reasons[0].text.startswith("worker w-1 runs it since ")
    assert (", on web1, process 7" in reasons[0].text) == (lease is not None)


async def test_a_running_job_that_was_asked_to_cancel_says_so(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await worker(conn)
    job_id = await store.enqueue("t")
    await conn.execute("update pqlite.jobs set status = 'RUNNING', locked_by = 'w-1', locked_at = now()")
    await store.cancel(job_id)

    assert await codes(store, job_id) == ["RUNNING", "CANCEL_REQUESTED"]


async def test_an_ended_job_says_how_it_ended(store: PgJobStore, conn: asyncpg.Connection) -> None:
    job_id = await store.enqueue("t")
    await conn.execute(
        "update pqlite.jobs set status = 'FAILED', finished_at = now(), last_error = E'a\nValueError: no'"
    )

    [reason] = await Operations(store).explain(job_id)

    assert reason.code == "FAILED"
    assert reason.text.endswith(": ValueError: no")


async def test_a_job_that_does_not_exist_is_an_error(store: PgJobStore) -> None:
    with pytest.raises(JobNotFound):
        await Operations(store).explain(404)
