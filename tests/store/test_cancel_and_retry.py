import asyncio

import asyncpg
import pytest

from pqlite import DedupeConflict, JobStatus, PgJobStore
from pqlite.outcome import Verb
from tests.store.conftest import Connect
from tests.store.workers import RegisteredWorker, fetch_job, until_blocked

FINISHED = ["DONE", "FAILED", "CANCELLED"]


async def make(store: PgJobStore, conn: asyncpg.Connection, status: str) -> int:
    """Return the id of a job in a state, with the traces that states leave."""
    job_id = await store.enqueue("t", max_attempts=3)
    await conn.execute(
        """
        update pqlite.jobs
        set status = $2, attempts = 3, claims = 4, crashes = 1, last_error = 'boom', result = '1',
            locked_by = case when $2 = 'RUNNING' then 'somebody' end,
            finished_at = case when $2 in ('DONE', 'FAILED', 'CANCELLED') then now() end,
            cancel_requested_at = case when $2 = 'CANCELLED' then now() end
        where id = $1
        """,
        *(job_id, status),
    )
    return job_id


@pytest.mark.parametrize("status", ["READY", "BLOCKED"])
async def test_a_waiting_job_is_cancelled_at_once(store: PgJobStore, conn: asyncpg.Connection, status: str) -> None:
    job_id = await make(store, conn, status)

    assert await store.cancel(job_id) is JobStatus.CANCELLED

    job = await store.get(job_id)
    assert job.status is JobStatus.CANCELLED
    assert job.finished_at is not None


@pytest.mark.parametrize("status", FINISHED)
async def test_a_finished_job_is_not_changed_by_cancel(
    store: PgJobStore, conn: asyncpg.Connection, status: str
) -> None:
    job_id = await make(store, conn, status)
    before = await fetch_job(conn, job_id)

    assert await store.cancel(job_id) == status

    assert await fetch_job(conn, job_id) == before


async def test_cancel_on_the_callers_connection_is_rolled_back_with_the_caller(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    job_id = await store.enqueue("t")
    transaction = conn.transaction()
    await transaction.start()
    assert await store.cancel(job_id, conn=conn) is JobStatus.CANCELLED
    await transaction.rollback()

    assert (await store.get(job_id)).status is JobStatus.READY


@pytest.mark.parametrize("commits", [True, False])
async def test_a_cancel_that_waits_for_an_outcome_sees_what_became_of_the_job(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect, worker: RegisteredWorker, commits: bool
) -> None:
    await store.enqueue("t")
    job = await worker.claim_one()
    completing = conn.transaction()
    await completing.start()
    await conn.execute("select pqlite.complete($1, $2, $3, null)", worker.id, job.id, job.claims)

    async with asyncio.TaskGroup() as tasks:
        cancel = tasks.create_task(store.cancel(job.id))
        await until_blocked(await connect())
        await (completing.commit() if commits else completing.rollback())

    assert cancel.result() is (JobStatus.DONE if commits else JobStatus.RUNNING)


@pytest.mark.parametrize("status", FINISHED)
async def test_a_retried_job_is_ready_now_with_an_attempt_left_and_without_its_past_cancellation(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker, status: str
) -> None:
    job_id = await make(store, conn, status)

    assert await store.retry(job_id) is JobStatus.READY

    row = await fetch_job(conn, job_id)
    assert (row["status"], row["attempts"], row["max_attempts"], row["crashes"]) == ("READY", 3, 4, 0)
    assert (row["finished_at"], row["cancel_requested_at"]) == (None, None)
    job = await worker.claim_one()
    assert (job.id, job.claims) == (job_id, 5)
    assert await worker.settle(job, Verb.RETRY) is None
    assert (await store.get(job_id)).status is JobStatus.FAILED


@pytest.mark.parametrize("status", ["RUNNING", "BLOCKED"])
async def test_a_running_or_blocked_job_is_not_changed_by_retry(
    store: PgJobStore, conn: asyncpg.Connection, status: str
) -> None:
    job_id = await make(store, conn, status)
    before = await fetch_job(conn, job_id)

    assert await store.retry(job_id) == status

    assert await fetch_job(conn, job_id) == before


async def test_a_job_whose_key_a_newer_active_job_holds_cannot_be_retried(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    old = await store.enqueue("t", dedupe_key="k")
    await store.cancel(old)
    await store.enqueue("t", dedupe_key="k")
    before = await fetch_job(conn, old)

    with pytest.raises(DedupeConflict, match=f"A newer active job holds the dedupe key of job {old}"):
        await store.retry(old)

    assert await fetch_job(conn, old) == before
