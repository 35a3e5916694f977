"""How outcomes reach the database."""

import asyncio
from datetime import timedelta

import asyncpg

from pqlite import Fail, JobContext, JobStatus, PgJobStore
from pqlite.events import JobEnded, JobSettled, JobStarted
from tests.support import EventLog, ended, until
from tests.worker.conftest import Run


async def test_outcomes_that_gather_while_one_write_is_in_flight_are_written_together(
    run: Run, store: PgJobStore, log: EventLog, conn: asyncpg.Connection
) -> None:
    await store.enqueue_many([{"job_type": "t"} for _ in range(200)])
    async with run({"t": lambda ctx: ctx.job.id}, concurrency=50):
        await log.wait_for(JobSettled, count=200)

    moments = await conn.fetchval("select count(distinct finished_at) from pqlite.jobs where status = 'DONE'")
    assert moments < 150


async def test_a_worker_that_keeps_nothing_leaves_only_what_failed(
    run: Run, store: PgJobStore, log: EventLog, conn: asyncpg.Connection
) -> None:
    def handler(ctx: JobContext) -> None:
        if ctx.job.payload == 7:
            raise Fail("seven")

    async with run({"t": handler}, concurrency=20, retain_done=timedelta(0)):
        await store.enqueue_many({"job_type": "t", "payload": n} for n in range(50))
        await log.wait_for(JobSettled, count=50)

    assert [tuple(r) for r in await conn.fetch("select payload, status from pqlite.jobs")] == [("7", "FAILED")]


async def test_a_job_that_a_foreign_key_keeps_from_being_deleted_is_kept(
    run: Run, store: PgJobStore, log: EventLog, conn: asyncpg.Connection
) -> None:
    await conn.execute("create table orders (job_id bigint references pqlite.jobs (id))")
    async with run({"t": lambda _ctx: None}, concurrency=20, retain_done=timedelta(0)):
        go, *_ = await store.enqueue_many({"job_type": "t", "run_after": timedelta(seconds=0.3)} for _ in range(10))
        await conn.execute("insert into orders values ($1)", go.id)
        await log.wait_for(JobSettled, count=10)

    left = await conn.fetch("select id, status from pqlite.jobs")
    assert (go.id, "DONE") in [tuple(r) for r in left]
    assert {r["status"] for r in left} == {"DONE"}


async def test_a_row_that_a_stranger_locks_delays_no_other(
    run: Run, store: PgJobStore, log: EventLog, conn: asyncpg.Connection
) -> None:
    go_on = asyncio.Event()

    async def handler(_ctx: JobContext) -> None:
        await go_on.wait()

    async with run({"t": handler}):
        locked, free = await store.enqueue("t"), await store.enqueue("t")
        await log.wait_for(JobStarted, count=2)
        async with conn.transaction():
            await conn.execute("select from pqlite.jobs where id = $1 for update", locked)
            go_on.set()
            await ended(store, free)
            await log.wait_for(JobEnded, count=2)
            waiting = await store.get(locked)
        job = await ended(store, locked)

    assert waiting.status is JobStatus.RUNNING
    assert (job.status, job.attempts) == (JobStatus.DONE, 1)


async def test_a_value_the_database_refuses_fails_its_own_job_and_no_other(
    run: Run, store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await conn.execute("alter table pqlite.jobs add check (result is distinct from '13')")
    async with run({"t": lambda ctx: ctx.job.payload}, concurrency=20):
        verdicts = await store.enqueue_many([{"job_type": "t", "payload": n} for n in range(20)])
        jobs = [await ended(store, verdict.id) for verdict in verdicts]

    assert [job.result for job in jobs if job.status is JobStatus.DONE] == [n for n in range(20) if n != 13]
    assert jobs[13].status is JobStatus.FAILED
    assert "cannot be stored" in (jobs[13].last_error or "")


async def test_outcomes_survive_a_database_that_is_away(
    run: Run, store: PgJobStore, log: EventLog, conn: asyncpg.Connection
) -> None:
    go_on = asyncio.Event()

    async def handler(_ctx: JobContext) -> str:
        await go_on.wait()
        return "kept"

    async with run({"t": handler}):
        job_id = await store.enqueue("t")
        await log.wait_for(JobStarted)
        await conn.execute("alter function pqlite.settle rename to settle_elsewhere")
        go_on.set()
        await log.wait_for(JobEnded)
        await conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and application_name = 'pqlite settler'"
        )
        await conn.execute("alter function pqlite.settle_elsewhere rename to settle")
        job = await ended(store, job_id)

    assert (job.status, job.result, job.attempts) == (JobStatus.DONE, "kept", 1)


async def test_every_connection_of_a_worker_may_be_cut_at_any_time(
    run: Run, store: PgJobStore, conn: asyncpg.Connection
) -> None:
    async def handler(_ctx: JobContext) -> None:
        await asyncio.sleep(0.002)

    verdicts = await store.enqueue_many([{"job_type": "t"} for _ in range(400)])
    async with run({"t": handler}, concurrency=4):
        for purpose in ("claimer", "settler", "sentinel") * 3:
            await conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and application_name = $1",
                f"pqlite {purpose}",
            )
            await asyncio.sleep(0.05)
        jobs = [await ended(store, verdict.id) for verdict in verdicts]

    assert all(job.status is JobStatus.DONE for job in jobs)
    assert all(job.crashes == 0 for job in jobs)


async def test_health_says_what_is_wrong_and_when_it_is_right_again(
    run: Run, store: PgJobStore, conn: asyncpg.Connection
) -> None:
    async with run({"t": lambda _ctx: None}) as worker:
        assert worker.healthy()
        await conn.execute("alter function pqlite.renew rename to renew_elsewhere")
        await conn.execute("alter function pqlite.claim rename to claim_elsewhere")
        await store.enqueue("t")
        trouble = await until(worker.trouble)
        await conn.execute("alter function pqlite.renew_elsewhere rename to renew")
        await conn.execute("alter function pqlite.claim_elsewhere rename to claim")
        await until(worker.healthy)

    assert "claimer" in trouble
    assert worker.trouble() == "the worker is not running"


async def test_a_row_whose_failure_cannot_even_be_written_delays_no_other(
    run: Run, store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await conn.execute(
        """
        create function refuse() returns trigger language plpgsql as $$
        begin
          if new.job_type = 'cursed' and new.status <> 'RUNNING' then raise exception 'never'; end if;
          return new;
        end $$;
        create trigger refuse before update on pqlite.jobs for each row execute function refuse();
        """
    )
    async with run({"cursed": lambda _ctx: None, "t": lambda _ctx: None}, shutdown_timeout=3):
        cursed = await store.enqueue("cursed")
        jobs = [await ended(store, await store.enqueue("t")) for _ in range(3)]
        stuck = await store.get(cursed)

    assert [job.status for job in jobs] == [JobStatus.DONE] * 3
    assert stuck.status is JobStatus.RUNNING
