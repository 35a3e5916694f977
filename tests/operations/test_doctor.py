"""Each fault that a test makes is found by `doctor`, and nothing is found where nothing is wrong."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from pqlite import PgJobStore
from pqlite.operations import Finding, Operations
from pqlite.operations.doctor import server_findings
from pqlite.operations.statements import for_schema

WORKER = """
    insert into pqlite.workers (id, label, lease_until, info)
    values ('w-1', 'w', clock_timestamp() + $1::interval, $2::text::jsonb)
"""
HELD = "update pqlite.jobs set status = 'RUNNING', locked_by = $1, locked_at = now() - interval '1 hour'"


async def findings(store: PgJobStore, *, seconds: float = 300) -> list[Finding]:
    return await Operations(store).doctor(patience=timedelta(seconds=seconds))


async def codes(store: PgJobStore, *, seconds: float = 300) -> list[str]:
    return [each.code for each in await findings(store, seconds=seconds)]


async def worker(conn: asyncpg.Connection, *, lease: int = 60, info: str = '{"host": "web1", "pid": 7}') -> None:
    await conn.execute(WORKER, timedelta(seconds=lease), info)


async def test_nothing_is_wrong_with_a_queue_that_works(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await worker(conn)
    await store.enqueue("t")
    await store.enqueue("t", run_after=timedelta(hours=1))

    assert await findings(store) == []


async def test_a_missing_schema_is_found(empty_dsn: str) -> None:
    async with PgJobStore(dsn=empty_dsn) as store:
        [found] = await findings(store)

    assert (found.severity, found.code) == ("error", "SCHEMA")
    assert "has no schema" in found.text


async def test_a_disabled_trigger_is_found(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await conn.execute("alter table pqlite.jobs disable trigger jobs_inserted")

    assert await codes(store) == ["TRIGGER"]


async def test_due_jobs_without_any_worker_are_found(store: PgJobStore) -> None:
    await store.enqueue("t")

    [found] = await findings(store)

    assert (found.code, found.advice) == ("NO_WORKER", "start a worker")


@pytest.mark.parametrize("info", ['{"queues": ["other"]}', '{"job_types": ["other"]}'])
async def test_due_jobs_that_no_worker_serves_are_found(store: PgJobStore, conn: asyncpg.Connection, info: str) -> None:
    await worker(conn, info=info)
    await store.enqueue("t")

    assert await codes(store) == ["ORPHANS"]


async def test_jobs_that_wait_for_long_are_found(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await worker(conn)
    await store.enqueue("t", run_after=datetime.now(UTC) - timedelta(hours=1))

    assert await codes(store) == ["BACKLOG"]


async def test_a_silent_worker_is_found_and_is_an_error_if_it_holds_jobs(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await worker(conn, lease=-1)
    [silent] = await findings(store)
    assert (silent.severity, silent.code) == ("warning", "SILENT_WORKER")
    assert silent.advice.startswith("look at its process, 7 on web1")

    await store.enqueue("t")
    await conn.execute(HELD, "w-1")
    [holds] = await findings(store)
    assert (holds.severity, holds.code) == ("error", "DEAD_WORKER")
    assert holds.text.endswith("holds 1 job")


async def test_a_job_held_by_no_registered_worker_is_found(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await store.enqueue("t")
    await conn.execute(HELD, "somebody")

    assert await codes(store) == ["LOST_JOB"]


async def test_a_pause_without_an_end_is_told(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await worker(conn)
    await store.pause(queue="default", by="ada", reason="it is down")
    await store.enqueue("t", run_after=datetime.now(UTC) - timedelta(hours=1))

    [found] = await findings(store, seconds=0)

    assert (found.severity, found.code) == ("info", "PAUSED")
    assert found.text.endswith(" by ada: it is down")


async def test_schedules_that_are_late_or_do_not_work_are_found(store: PgJobStore, conn: asyncpg.Connection) -> None:
    for name in ("late", "wrong", "paused"):
        await conn.execute('select pqlite.add_schedule($1, \'{"job_type": "t", "every": "1 hour"}\')', name)
    await conn.execute("update pqlite.schedules set next_at = now() + interval '1 hour'")
    await conn.execute("update pqlite.schedules set next_at = now() - interval '1 hour' where name = 'late'")
    await conn.execute("update pqlite.schedules set problem = 'no such zone' where name = 'wrong'")
    await store.pause_schedule("paused")

    found = {each.code: each.text for each in await findings(store)}

    assert sorted(found) == ["SCHEDULE_LATE", "SCHEDULE_PROBLEM"]
    assert found["SCHEDULE_PROBLEM"] == "the schedule wrong does not work: no such zone"


async def test_a_long_transaction_is_found_with_its_process(store: PgJobStore, conn: asyncpg.Connection) -> None:
    async with conn.transaction(isolation="repeatable_read"):
        pid = await conn.fetchval("select pg_backend_pid()")

        [found] = await findings(store, seconds=0)

    assert found.code == "LONG_TRANSACTION"
    assert found.text.startswith(f"process {pid} (")
    assert found.advice == f"if it is forgotten: select pg_terminate_backend({pid})"


async def test_a_prepared_transaction_is_found(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await conn.execute("begin; create table held (); prepare transaction 'forgotten'")
    try:
        assert await codes(store, seconds=0) == ["PREPARED_TRANSACTION"]
    finally:
        await conn.execute("rollback prepared 'forgotten'")


async def test_a_table_without_autovacuum_is_found(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await conn.execute("alter table pqlite.jobs set (autovacuum_enabled = off)")

    assert await codes(store) == ["AUTOVACUUM"]


async def test_failed_jobs_that_nobody_prunes_are_told(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await store.enqueue("t")
    await conn.execute("update pqlite.jobs set status = 'FAILED', finished_at = now() - interval '40 days'")

    assert await codes(store) == ["OLD_JOBS"]


async def test_a_role_that_may_not_write_is_told(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await conn.execute(
        "create role pqlite_test_reader; grant usage on schema pqlite to pqlite_test_reader;"
        "grant select on all tables in schema pqlite to pqlite_test_reader;"
        "grant execute on all functions in schema pqlite to pqlite_test_reader"
    )
    try:
        await conn.execute("set role pqlite_test_reader")
        found = await conn.fetch("select code, finding from pqlite.doctor()")
    finally:
        await conn.execute("reset role; drop owned by pqlite_test_reader; drop role pqlite_test_reader")

    assert [row["code"] for row in found] == ["PRIVILEGES"]
    assert "may not DELETE pqlite.jobs, INSERT pqlite.jobs, UPDATE pqlite.jobs" in found[0]["finding"]


@pytest.mark.parametrize(("hours", "expected"), [(0, []), (1, ["CLOCK"]), (-1, ["CLOCK"])])
async def test_a_clock_that_differs_from_the_servers_is_found(
    conn: asyncpg.Connection, hours: int, expected: list[str]
) -> None:
    def clock() -> datetime:
        return datetime.now(UTC) + timedelta(hours=hours)

    assert [each.code for each in await server_findings(conn, for_schema("pqlite"), clock)] == expected


async def test_workers_are_listed_with_what_they_say_and_hold(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await worker(conn, info='{"host": "web1", "pid": 7, "queues": ["q"], "job_types": null, "concurrency": 3}')
    await store.enqueue("t")
    await conn.execute(HELD, "w-1")

    [listed] = await Operations(store).workers()

    assert (listed.id, listed.label, listed.state, listed.host, listed.pid) == ("w-1", "w", "alive", "web1", 7)
    assert (listed.queues, listed.job_types, listed.concurrency, listed.running) == (["q"], None, 3, 1)
    assert listed.oldest_claim is not None
