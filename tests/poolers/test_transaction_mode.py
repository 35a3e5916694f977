"""Behind a pooler in transaction mode everything works that needs no session; the rest is made up for, and said."""

import asyncio
import logging
import signal
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from pqlite import IdlePollPolicy, JobContext, JobStatus, NewJob, PgJobStore, SchemaError, Worker, schema
from pqlite.events import JobStarted, WorkerRegistered
from pqlite.store.route import Pooling
from tests.faults.scene import Scene
from tests.poolers.conftest import Bounce
from tests.poolers.pgbouncer import PgBouncer, version
from tests.schema.conftest import later
from tests.schema.test_steps import INDEX
from tests.support import EventLog, ended, until

# Another session with every transaction; and the one used last, which forgives much, but not what it prepared.
MODES = {
    "another session each time": {"server_round_robin": "1"},
    "the same session mostly": {"server_round_robin": "0"},
    "sessions that come and go": {"server_round_robin": "1", "server_lifetime": "1"},
    "prepared statements allowed": {"server_round_robin": "1", "max_prepared_statements": "100"},
}
SLEEPY = IdlePollPolicy(60, 60)


async def nothing(ctx: JobContext) -> None:
    pass


@pytest.fixture(params=MODES)
async def pooler(request: pytest.FixtureRequest, bounce: Bounce) -> PgBouncer:
    settings = MODES[request.param]
    if "max_prepared_statements" in settings and version() < (1, 21):
        pytest.skip(f"pgbouncer {version()} knows no max_prepared_statements (1.21 does)")
    return await bounce(**settings)


async def left_behind(dsn: str) -> list[asyncpg.Record]:
    """Return what sessions of the pooler keep of ours: prepared statements, settings, locks, channels."""
    found = []
    for _ in range(8):  # each time perhaps another session
        conn = await asyncpg.connect(dsn, statement_cache_size=0)
        found += await conn.fetch(
            "select 'statement', name from pg_prepared_statements where name <> '' "
            "union all select 'setting', name from pg_settings where source = 'session' and name <> all ($1) "
            "union all select 'channel', c from pg_listening_channels() c "
            "union all select 'lock', objid::text from pg_locks where locktype = 'advisory' "
            "and database = (select oid from pg_database where datname = current_database())",
            # what the pooler carries from client to client itself
            ["application_name", "client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings"],
        )
        await conn.close()
    return found


async def test_a_store_does_everything_it_does_without_one(empty_dsn: str, pooler: PgBouncer) -> None:
    dsn = pooler.dsn(empty_dsn)
    async with PgJobStore(dsn=dsn) as store:
        assert await store.migrate()
        assert await store.migrate() == []
        await store.check_schema()

        single = await store.enqueue("a", {"n": 1}, run_after=timedelta(hours=1), tags=["x"], queue="later")
        keyed = await store.enqueue("a", dedupe_key="k", queue="later")
        assert await store.enqueue("a", dedupe_key="k") == keyed
        assert len(set(await asyncio.gather(*(store.enqueue("together", {"n": n}) for n in range(200))))) == 200
        many = await store.enqueue_many(NewJob(job_type="many", payload={"n": n}) for n in range(3000))
        assert len({verdict.id for verdict in many}) == 3000
        verdicts = await store.enqueue_many([{"job_type": "a", "dedupe_key": key} for key in ("k", "new")])
        assert [verdict.inserted for verdict in verdicts] == [False, True]
        job = await store.get(single)
        assert (job.payload, job.tags, job.status) == ({"n": 1}, ["x"], JobStatus.READY)
        assert await store.cancel(single) is JobStatus.CANCELLED
        assert await store.retry(single) is JobStatus.READY

        picked = await asyncio.gather(*(store.pickup("me", job_types=["together"]) for _ in range(20)))
        claimed = [job for job in picked if job is not None]
        assert len({job.id for job in claimed}) == 20
        await store.mark_done(claimed[0], result=[1])
        await store.mark_error(claimed[1], "no", terminal=True)
        async with store.complete(claimed[2], result={"a": 1}) as conn:
            await conn.execute("create table effects (n int)")
            await conn.execute("insert into effects values ($1)", 7)
            inside = await store.enqueue("inside", conn=conn)
        with suppress(LookupError):
            async with store.complete(claimed[3]) as conn:
                await conn.execute("insert into effects values ($1)", 8)
                raise LookupError
        assert (await store.get(inside)).status is JobStatus.READY
        assert [(await store.get(job.id)).status for job in claimed[:4]] == ["DONE", "FAILED", "DONE", "RUNNING"]
        async with store.transaction() as conn:
            assert await conn.fetch("select n from effects") == [(7,)]
        assert await store.reap_stale(default_stale_after=timedelta(0)) == 17
        assert (await store.prune(timedelta(0), timedelta(0)))[1] == 3
        assert store.pooling is Pooling.TRANSACTION

    assert await left_behind(dsn) == []


async def test_a_worker_does_everything_it_does_without_one(
    dsn: str, pooler: PgBouncer, caplog: pytest.LogCaptureFixture
) -> None:
    log, tries = EventLog(), 0

    async def flaky(ctx: JobContext) -> Any:
        nonlocal tries
        tries += 1
        if ctx.attempt == 1:
            raise RuntimeError("as ordered")
        return tries

    async def effect(ctx: JobContext) -> None:
        async with ctx.complete(result="kept") as conn:
            await conn.execute("select pg_sleep(0.01)")

    async def endless(ctx: JobContext) -> None:
        await asyncio.sleep(3600)

    async def quick(ctx: JobContext) -> int:
        return ctx.job.payload["n"]

    class Soon:
        def retry_delay(self, attempts: int) -> float:
            return 0.1

    store = PgJobStore(dsn=pooler.dsn(dsn))
    handlers = {"flaky": flaky, "effect": effect, "endless": endless, "quick": quick}
    with caplog.at_level(logging.INFO, "pqlite"):
        async with Worker(store, handlers, observers=[log], backoff=Soon()) as worker:
            await log.wait_for(WorkerRegistered)
            ids = [verdict.id for verdict in await store.enqueue_many(
                {"job_type": "quick", "payload": {"n": n}} for n in range(1000)
            )]  # fmt: skip
            ids += [await store.enqueue(kind) for kind in ("flaky", "effect") for _ in range(20)]
            stopped = await store.enqueue("endless")
            await log.wait_for(JobStarted, lambda event: event.job.id == stopped)
            assert await store.cancel(stopped) is JobStatus.RUNNING
            for job_id in ids:
                assert (await ended(store, job_id)).status is JobStatus.DONE
            assert (await ended(store, stopped)).status is JobStatus.CANCELLED
            diagnosis = worker.diagnosis()
            assert diagnosis is not None
            assert (diagnosis.pooling, diagnosis.hears) == (Pooling.TRANSACTION, False)
            assert worker.healthy()

    warnings = [
        r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and "as ordered" not in r.message
    ]
    assert len(warnings) == 1, warnings
    assert warnings[0].startswith("A pooler in transaction mode stands between this worker and PostgreSQL")
    assert "listen_dsn=" in warnings[0]
    conn = await asyncpg.connect(dsn)
    assert await conn.fetch("select id from pqlite.workers") == []
    # Nobody could hear a notification: none was asked for, so that none takes its lock.
    armed = "select last_value / 1000 - extract(epoch from now()) from pqlite.wake_until"
    assert await conn.fetchval(armed) < -80_000
    await conn.close()
    assert await left_behind(pooler.dsn(dsn)) == []


async def test_a_worker_without_a_session_is_judged_by_its_lease_alone(dsn: str, bounce: Bounce) -> None:
    pooler = await bounce()
    log = EventLog()
    async with Worker(PgJobStore(dsn=pooler.dsn(dsn)), {"t": nothing}, observers=[log]):
        await log.wait_for(WorkerRegistered)
        conn = await asyncpg.connect(dsn)
        assert await conn.fetch("select lock_key from pqlite.workers") == [(None,)]
        await conn.close()


@pytest.mark.parametrize("settings", [{}, {"server_lifetime": "1", "server_round_robin": "1"}])
async def test_a_killed_workers_jobs_are_taken_over_after_one_lease(
    dsn: str, bounce: Bounce, tmp_path: Path, settings: dict[str, str]
) -> None:
    """Also where the sessions of the pooler are all younger than the judge's latest renewal."""
    pooler = await bounce(**settings)
    async with Scene(dsn, tmp_path) as scene:
        killed = await scene.spawn("killed", dsn=pooler.dsn(dsn), lease=12)
        job = await scene.enqueue("slow", seconds=[60.0, 0.1])
        await scene.line("start", job=job)
        await scene.spawn("judge", dsn=pooler.dsn(dsn), lease=12)
        killed.kill()

        await scene.line("start", 30.0, count=2, job=job)
        await scene.drained()
        for process in scene.processes[1:]:
            await process.stop()
        await pooler.stop()
        audit = await scene.audit()

    assert [run.holder.partition("-")[0] for run in audit.runs_of(job)] == ["killed", "judge"]
    [recovery] = audit.recoveries
    assert 8.0 < recovery < 12.0 + 5.0


@pytest.mark.parametrize("settings", [{}, {"server_round_robin": "1"}])
async def test_an_address_of_its_own_to_listen_makes_a_worker_as_quick_as_without_a_pooler(
    dsn: str, bounce: Bounce, settings: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    pooler = await bounce(**settings)
    log = EventLog()

    async def endless(ctx: JobContext) -> None:
        await asyncio.sleep(3600)

    store = PgJobStore(dsn=pooler.dsn(dsn), listen_dsn=dsn)
    async with Worker(store, {"endless": endless}, observers=[log], idle_policy=SLEEPY) as worker:
        await log.wait_for(WorkerRegistered)
        conn = await asyncpg.connect(dsn)
        armed = "select last_value / 1000 > extract(epoch from now()) from pqlite.wake_until"
        await until(lambda: conn.fetchval(armed), "the worker to fall asleep")

        job_id = await conn.fetchval("select id from pqlite.enqueue('endless')")  # by another process
        await log.wait_for(JobStarted, lambda event: event.job.id == job_id)
        await conn.execute("select pqlite.cancel($1)", job_id)
        assert (await ended(store, job_id)).status is JobStatus.CANCELLED

        [lock] = await conn.fetch("select lock_key from pqlite.workers")
        assert not await conn.fetchval("select pg_try_advisory_xact_lock($1)", lock[0])
        names = await conn.fetch("select application_name from pg_stat_activity where datname = current_database()")
        assert [name for (name,) in names].count("pqlite sentinel") == 1
        diagnosis = worker.diagnosis()
        assert diagnosis is not None
        assert (diagnosis.pooling, diagnosis.hears) == (Pooling.TRANSACTION, True)
        await conn.close()
    assert not [record for record in caplog.records if "pooler" in record.message]


async def test_an_address_to_listen_that_leads_to_a_pooler_too_is_said_to(
    dsn: str, bounce: Bounce, caplog: pytest.LogCaptureFixture
) -> None:
    pooler = await bounce()
    log = EventLog()
    async with Worker(PgJobStore(dsn=dsn, listen_dsn=pooler.dsn(dsn)), {"t": nothing}, observers=[log]) as worker:
        await log.wait_for(WorkerRegistered)
        diagnosis = worker.diagnosis()
        assert diagnosis is not None
        assert (diagnosis.pooling, diagnosis.hears) == (Pooling.NONE, False)
    assert [record for record in caplog.records if "listen_dsn=" in record.message]


async def test_in_session_mode_a_worker_has_its_session(dsn: str, bounce: Bounce) -> None:
    pooler = await bounce(pool_mode="session", default_pool_size="20")
    log = EventLog()

    async with Worker(PgJobStore(dsn=pooler.dsn(dsn)), {"t": nothing}, observers=[log], idle_policy=SLEEPY) as worker:
        await log.wait_for(WorkerRegistered)
        conn = await asyncpg.connect(dsn)
        armed = "select last_value / 1000 > extract(epoch from now()) from pqlite.wake_until"
        await until(lambda: conn.fetchval(armed), "the worker to fall asleep")
        await conn.execute("select id from pqlite.enqueue('t')")
        await log.wait_for(JobStarted)
        assert await conn.fetchval("select lock_key is not null from pqlite.workers")
        diagnosis = worker.diagnosis()
        assert diagnosis is not None
        assert (diagnosis.pooling, diagnosis.hears) == (Pooling.SESSION, True)
        await conn.close()


async def test_a_statement_that_exceeds_its_deadline_costs_its_own_connection_and_nobody_elses(
    dsn: str, bounce: Bounce
) -> None:
    pooler = await bounce(default_pool_size="2")
    async with PgJobStore(dsn=pooler.dsn(dsn)) as store:
        link = store.engine("claimer").link
        other = store.engine("settler").link
        await other.fetch("select 1", deadline=5.0)

        with pytest.raises(TimeoutError):
            await link.fetch("select pg_sleep(60)", deadline=0.3)

        assert not link.connected
        for _ in range(5):
            assert await link.fetch("select 1", deadline=5.0) == [(1,)]
            assert await other.fetch("select 1", deadline=5.0) == [(1,)]
        assert (link.generation, other.generation) == (2, 1)
        await link.close()
        await other.close()


async def test_a_crash_of_the_pooler_loses_and_doubles_nothing(dsn: str, bounce: Bounce, tmp_path: Path) -> None:
    pooler = await bounce()
    async with Scene(dsn, tmp_path) as scene:
        worker = await scene.spawn("worker", dsn=pooler.dsn(dsn))
        await scene.enqueue_many("effect", 300, seconds=0.05)
        await scene.line("end", count=20)
        await pooler.restart()
        await scene.drained()
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        await pooler.stop()
        await scene.audit()


async def test_an_index_that_takes_longer_than_the_statement_timeout_is_given_up_with_what_to_do_and_no_session_changes(
    dsn: str, conn: asyncpg.Connection, pooler: PgBouncer, tmp_path: Path
) -> None:
    database = await conn.fetchval("select current_database()")
    await conn.execute(f"alter database \"{database}\" set statement_timeout = '1s'")
    root = later(tmp_path, INDEX)
    client = await asyncpg.connect(pooler.dsn(dsn), statement_cache_size=0)
    try:
        async with conn.transaction():
            await conn.execute("insert into pqlite.jobs (job_type) values ('t')")
            with pytest.raises(SchemaError, match=r"was cancelled: .*connect to PostgreSQL itself"):
                await schema.migrate(client, root=root)
        assert await client.fetchval("select setting from pg_settings where name = 'statement_timeout'") == "1000"
    finally:
        await client.close(timeout=5)

    assert await left_behind(pooler.dsn(dsn)) == []
    assert await schema.migrate(conn, root=root) == [schema.latest() + 1]
