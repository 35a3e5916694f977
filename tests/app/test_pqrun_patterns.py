"""What pqrun's documentation shows, with the import renamed."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
from fastapi import FastAPI

from pqlite import (
    BackoffPolicy,
    IdlePollPolicy,
    JobContext,
    JobStatus,
    LeaseLost,
    LoopErrorPolicy,
    PgJobStore,
    Worker,
)
from tests.support import ended, settled


async def test_the_quick_start_works(dsn: str) -> None:
    async def summarize_handler(ctx: JobContext) -> dict[str, int]:
        conversation_id = ctx.job.payload["conversation_id"]
        await ctx.store.enqueue("embed", {"text": f"summary of {conversation_id}"})
        return {"summary_id": 123, "tokens": 456}

    async def embed_handler(ctx: JobContext) -> None:
        async with ctx.store.transaction() as conn:  # type: ignore[attr-defined]
            await conn.execute("create table embedded as select $1::text as text", ctx.job.payload["text"])

    store = PgJobStore(dsn=dsn)
    worker = Worker(store=store, handlers={"summarize": summarize_handler, "embed": embed_handler})
    app = FastAPI(lifespan=worker.lifespan)

    async with app.router.lifespan_context(app):
        job_id = await store.enqueue(
            job_type="summarize", payload={"conversation_id": 7}, dedupe_key="summarize:conv:7"
        )
        job = await ended(store, job_id)
        await ended(store, job_id + 1)
        async with store.connection() as conn:
            text = await conn.fetchval("select text from embedded")

    assert job.result == {"summary_id": 123, "tokens": 456}
    assert text == "summary of 7"


async def test_a_duplicate_enqueue_returns_the_existing_id(store: PgJobStore) -> None:
    first = await store.enqueue("process_order", {"order_id": 456}, dedupe_key="process:order:456")
    second = await store.enqueue("process_order", {"order_id": 456}, dedupe_key="process:order:456")

    assert first == second != 0


async def test_run_after_takes_a_naive_local_time(store: PgJobStore) -> None:
    local = datetime.now() + timedelta(hours=1)
    job = await store.get(
        await store.enqueue(job_type="send_email", payload={"user_id": 1}, priority=10, run_after=local)
    )

    assert job.run_after == local.astimezone()
    assert job.priority == 10


async def test_every_argument_of_a_worker_is_accepted(store: PgJobStore) -> None:
    class CustomBackoff(BackoffPolicy):
        def retry_delay(self, attempts: int) -> timedelta:
            return timedelta(milliseconds=2**attempts)

    class CustomLoopErrorPolicy(LoopErrorPolicy):
        def next_sleep(self, consecutive_errors: int) -> float:
            return min(0.5 * consecutive_errors, 5.0)

    async def fails_once(ctx: JobContext) -> str:
        if ctx.job.attempts == 1:
            raise ValueError("once")
        return "second time"

    worker = Worker(
        store=store,
        handlers={"t": fails_once},
        concurrency=1,
        enabled=True,
        enable_reaper=True,
        backoff=CustomBackoff(),
        idle_policy=IdlePollPolicy(base_seconds=1.0, max_seconds=10.0),
        loop_error_policy=CustomLoopErrorPolicy(),
        reap_stale_every_seconds=60,
        default_stale_after=timedelta(minutes=20),
        shutdown_grace=10.0,
        shutdown_timeout=30.0,
        worker_id="custom-worker-1",
    )
    async with worker.lifespan(None):
        job = await ended(store, await store.enqueue("t", {}))

    assert (job.status, job.result, job.attempts) == (JobStatus.DONE, "second time", 2)


async def test_the_store_verbs_work_without_a_worker(store: PgJobStore) -> None:
    done, failing = await store.enqueue("t", {"n": 1}), await store.enqueue("t", {"n": 2})

    first = await store.pickup(worker_id="by-hand")
    assert first is not None
    await store.mark_done(first.id, result={"ok": True}, duration_ms=5)
    second = await store.pickup(worker_id="by-hand")
    assert second is not None
    await store.mark_error(second.id, "no luck", retry_after=timedelta(seconds=30))
    nothing = await store.pickup(worker_id="by-hand")

    job = await store.get(done)
    assert (job.status, job.result, job.duration_ms) == (JobStatus.DONE, {"ok": True}, 5)
    job = await store.get(failing)
    assert (job.status, job.attempts, job.last_error) == (JobStatus.READY, 1, "no luck")
    assert nothing is None
    with pytest.raises(LeaseLost):
        await store.mark_done(failing)


async def test_a_picked_up_job_that_is_abandoned_goes_back_by_age(store: PgJobStore, conn: asyncpg.Connection) -> None:
    job_id = await store.enqueue("t", {})
    picked = await store.pickup(worker_id="by-hand")
    young = await store.reap_stale(default_stale_after=timedelta(minutes=20))
    await conn.execute("update pqlite.jobs set locked_at = now() - interval '21 minutes'")
    old = await store.reap_stale(default_stale_after=timedelta(minutes=20))

    assert (young, old) == (0, 1)
    assert (await store.get(job_id)).status is JobStatus.READY
    assert picked is not None
    with pytest.raises(LeaseLost):
        await store.mark_done(picked, result={"late": True})


MONITORING = [
    "SELECT status, count(*) FROM pqlite.jobs GROUP BY status",
    "SELECT id, job_type, last_error, attempts FROM pqlite.jobs WHERE status = 'FAILED' "
    "AND finished_at > now() - interval '1 hour' ORDER BY finished_at DESC",
    "SELECT job_type, avg(duration_ms) as avg_ms, count(*) FROM pqlite.jobs WHERE status = 'DONE' GROUP BY job_type",
    "SELECT id, job_type, locked_at, locked_by FROM pqlite.jobs WHERE status = 'RUNNING' "
    "AND locked_at < now() - interval '20 minutes'",
    "SELECT id, job_type, payload, status, priority, attempts, max_attempts, run_after, timeout_seconds, locked_at, "
    "locked_by, dedupe_key, last_error, finished_at, duration_ms, result, created_at, updated_at FROM pqlite.jobs",
    "DELETE FROM pqlite.jobs WHERE status IN ('DONE', 'FAILED', 'CANCELLED') "
    "AND finished_at < now() - interval '7 days'",
]


@pytest.mark.parametrize("sql", MONITORING)
async def test_the_documented_sql_works_on_our_table(conn: asyncpg.Connection, sql: str) -> None:
    await conn.execute(sql)


async def test_the_pg_cron_pattern_enqueues_once(dsn: str, store: PgJobStore, conn: asyncpg.Connection) -> None:
    sql = """
      INSERT INTO pqlite.jobs (job_type, payload, dedupe_key)
      SELECT 'summarize', jsonb_build_object('conversation_id', c), 'summarize:conv:' || c
      FROM generate_series(1, 3) c
      ON CONFLICT (dedupe_key) WHERE dedupe_key IS NOT NULL AND status IN ('READY', 'RUNNING')
      DO NOTHING
    """
    first, second = await conn.execute(sql), await conn.execute(sql)

    assert (first, second) == ("INSERT 0 3", "INSERT 0 0")


async def test_an_unhandled_error_keeps_the_end_of_its_traceback(store: PgJobStore) -> None:
    async def deep(_ctx: JobContext) -> Any:
        def down(n: int) -> None:
            if n == 0:
                raise ValueError("the actual problem")
            down(n - 1)

        down(200)

    async with Worker(store=store, handlers={"t": deep}).lifespan():
        job = await settled(store, await store.enqueue("t"))
        await asyncio.sleep(0)

    assert (job.last_error or "").endswith("ValueError: the actual problem")
