"""A worker's single pass, on either store."""

import asyncio
import time
from datetime import timedelta
from urllib.parse import urlsplit

import asyncpg
import pytest

from pqlite import BackoffPolicy, JobContext, JobStatus, PgJobStore, Snooze, Worker, WorkerError, schema
from pqlite.events import JobsTakenOver, JobStarted
from pqlite.worker import single_pass
from tests.conformance.conftest import Store
from tests.conformance.scene import make_suspect
from tests.conftest import Server
from tests.faults.proxy import Proxy
from tests.store.conftest import Register
from tests.store.workers import RegisteredWorker
from tests.support import EventLog

pytestmark = pytest.mark.usefixtures("postgres_only")


class AtOnce(BackoffPolicy):
    def retry_delay(self, attempts: int) -> float:
        return 0.0


async def nothing(ctx: JobContext) -> None:
    """Succeed."""


async def test_nothing_due_is_over_at_once(store: Store) -> None:
    await store.enqueue("t", run_after=timedelta(hours=1))

    assert await Worker(store=store, handlers={"t": nothing}).run_once() == 0


async def test_what_is_due_is_run_and_what_that_makes_due_and_nothing_else(store: Store) -> None:
    async def first(ctx: JobContext) -> None:
        await ctx.store.enqueue("second")
        await ctx.store.enqueue("second", run_after=timedelta(hours=1))

    async def second(ctx: JobContext) -> None:
        if ctx.attempt < 3:
            raise ValueError

    ids = [await store.enqueue("first") for _ in range(25)]
    unknown = await store.enqueue("unknown")
    worker = Worker(store=store, handlers={"first": first, "second": second}, backoff=AtOnce(), concurrency=4)

    assert await worker.run_once() == 25 + 3 * 25

    assert {(await store.get(job_id)).status for job_id in ids} == {JobStatus.DONE}
    assert (await store.get(unknown)).status is JobStatus.READY
    assert await worker.run_once() == 0


async def test_a_chain_of_jobs_is_run_to_its_end_however_it_falls_between_two_looks(store: Store) -> None:
    async def handler(ctx: JobContext) -> None:
        if (left := ctx.job.payload) > 0:
            await ctx.store.enqueue("t", left - 1)

    await store.enqueue("t", 200)

    assert await Worker(store=store, handlers={"t": handler}).run_once() == 201


async def test_attempts_run_side_by_side_as_in_a_worker(store: Store) -> None:
    everybody = asyncio.Barrier(5)

    async def handler(ctx: JobContext) -> None:
        await everybody.wait()

    await store.enqueue_many([{"job_type": "t"}] * 10)

    assert await Worker(store=store, handlers={"t": handler}, concurrency=5).run_once() == 10


async def test_a_long_attempt_does_not_hide_what_becomes_due_meanwhile(store: Store) -> None:
    over = asyncio.Event()

    async def long(ctx: JobContext) -> None:
        await over.wait()

    async def short(ctx: JobContext) -> None:
        if ctx.job.attempts == 1 and not ctx.job.errors and ctx.job.claims == 1:
            raise Snooze(0)
        over.set()

    await store.enqueue("long")
    await store.enqueue("short")

    assert await Worker(store=store, handlers={"long": long, "short": short}).run_once() == 3


async def test_an_attempt_may_wait_for_a_job_that_it_has_enqueued(store: Store) -> None:
    async def parent(ctx: JobContext) -> object:
        return (await ctx.store.wait_for(await ctx.store.enqueue("child"))).result

    async def child(ctx: JobContext) -> str:
        return "done"

    job_id = await store.enqueue("parent")

    assert await Worker(store=store, handlers={"parent": parent, "child": child}).run_once() == 2
    assert (await store.get(job_id)).result == "done"


async def test_an_attempt_may_wait_for_a_job_that_was_enqueued_unheard_after_the_pass_had_looked(dsn: str) -> None:
    over = asyncio.Event()

    async def parent(ctx: JobContext) -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await asyncio.sleep(2 * single_pass.MEANWHILE)
            await connection.execute("select pqlite.enqueue('child')")
        finally:
            await connection.close()
        await over.wait()

    async def child(ctx: JobContext) -> None:
        over.set()

    async with PgJobStore(dsn=dsn) as store:
        await store.enqueue("parent")

        assert await Worker(store=store, handlers={"parent": parent, "child": child}).run_once() == 2


async def test_it_runs_whatever_enabled_says_and_leaves_the_store_as_it_found_it(fresh_store: Store) -> None:
    worker = Worker(store=fresh_store, handlers={"t": nothing}, enabled=False)
    async with fresh_store:
        job_id = await fresh_store.enqueue("t")

    assert await worker.run_once() == 1

    assert not fresh_store.started
    async with fresh_store:
        assert (await fresh_store.get(job_id)).status is JobStatus.DONE


async def test_suspects_are_run_but_nothing_is_taken_over_or_deleted(
    store: Store, register: Register, worker: RegisteredWorker
) -> None:
    suspect = await store.enqueue("t")
    await make_suspect(register)
    await store.enqueue("t")
    held = await worker.claim_one()
    log = EventLog()

    if held.id != suspect:
        await worker.engine.unregister(worker.id)
    once = Worker(store=store, handlers={"t": nothing}, observers=[log], retain_failed=timedelta(0))

    assert await once.run_once() == 1
    assert log.of(JobsTakenOver) == []


async def test_a_stop_ends_the_pass_and_gives_back_what_runs(store: Store) -> None:
    log = EventLog()

    async def handler(ctx: JobContext) -> None:
        await asyncio.Event().wait()

    job_id = await store.enqueue("t")
    worker = Worker(store=store, handlers={"t": handler}, shutdown_grace=0, observers=[log])
    passing = asyncio.create_task(worker.run_once())
    await log.wait_for(JobStarted)
    worker.begin_shutdown()

    assert await passing == 1
    job = await store.get(job_id)
    assert (job.status, job.attempts) == (JobStatus.READY, 0)


async def test_a_pass_cannot_begin_while_the_worker_runs(store: Store) -> None:
    async with Worker(store=store, handlers={"t": nothing}) as worker:
        with pytest.raises(WorkerError, match="running already"):
            await worker.run_once()


async def test_a_database_that_is_away_is_an_error_and_no_wait() -> None:
    worker = Worker(store=PgJobStore(dsn="postgresql://127.0.0.1:1/nothing"), handlers={"t": nothing})
    began = time.monotonic()

    with pytest.raises(WorkerError, match="cannot be reached"):
        await worker.run_once()

    assert time.monotonic() - began < 6


async def test_a_database_that_goes_away_for_good_ends_the_pass_with_an_error(
    server: Server, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single_pass, "AWAY_SECONDS", 0.1)
    database = urlsplit(dsn).path[1:]
    elsewhere = await asyncpg.connect(server.dsn)

    async def handler(ctx: JobContext) -> None:
        await elsewhere.execute(f'alter database "{database}" allow_connections off')
        await elsewhere.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", database)

    store = PgJobStore(dsn=dsn)
    async with store:
        await store.enqueue("t")
    worker = Worker(store=store, handlers={"t": handler}, shutdown_timeout=1.0)
    with pytest.raises(WorkerError, match="The database was away, or refused outcomes, for too long"):
        await worker.run_once()
    await elsewhere.close()


async def test_an_outcome_that_the_database_refuses_for_good_ends_the_pass_with_an_error(
    dsn: str, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single_pass, "AWAY_SECONDS", 0.1)
    await conn.execute("""
        create function refuse() returns trigger language plpgsql as $$ begin raise 'no'; end $$;
        create trigger refuses before update on pqlite.jobs for each row
        when (new.payload = '"refused"' and new.finished_at is not null) execute function refuse()""")
    worker = Worker(store=PgJobStore(dsn=dsn), handlers={"t": nothing}, shutdown_timeout=1.0)
    for payload in ("accepted", "refused", "accepted"):
        await conn.execute("select pqlite.enqueue('t', to_jsonb($1::text))", payload)

    with pytest.raises(WorkerError, match=r"refused outcomes, for too long: RaiseError\('no'\)"):
        await worker.run_once()

    assert await conn.fetchval("select count(*) from pqlite.jobs where status = 'DONE'") == 2


async def test_a_registration_that_the_jobs_database_does_not_know_ends_the_pass_with_an_error(
    dsn: str, empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single_pass, "AWAY_SECONDS", 0.1)
    elsewhere = await asyncpg.connect(empty_dsn)
    await schema.migrate(elsewhere)
    await elsewhere.close()
    async with PgJobStore(dsn=dsn, listen_dsn=empty_dsn) as store:
        await store.enqueue("t")

        with pytest.raises(WorkerError, match="was declared dead"):
            await Worker(store=store, handlers={"t": nothing}).run_once()


async def test_a_job_whose_claim_was_lost_on_the_way_is_run_all_the_same(dsn: str) -> None:
    async with Proxy(dsn) as proxy, PgJobStore(dsn=proxy.dsn) as store:
        job_id = await store.enqueue("t", "lost on the way")
        proxy.lose_answer("pqlite claimer", b"lost on the way")

        assert await Worker(store=store, handlers={"t": nothing}).run_once() == 1

        job = await store.get(job_id)
        assert (proxy.answers_lost, job.status, job.attempts) == (1, JobStatus.DONE, 1)
