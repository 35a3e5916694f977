"""A worker whose one listening connection goes another way than the rest."""

import asyncpg
import pytest

from pqlite import ConfigurationError, IdlePollPolicy, JobContext, PgJobStore, Worker, schema
from pqlite.events import JobStarted, LoopFailed, WorkerRegistered
from pqlite.store.route import Pooling
from pqlite.worker import claimer
from tests.store.test_sessions import set_for_the_database
from tests.support import EventLog, until


async def nothing(ctx: JobContext) -> None:
    pass


async def test_it_is_woken_by_way_of_it(dsn: str, conn: asyncpg.Connection, log: EventLog) -> None:
    store = PgJobStore(dsn=dsn, listen_dsn=dsn)
    async with Worker(store, {"t": nothing}, observers=[log], idle_policy=IdlePollPolicy(60, 60)) as worker:
        await log.wait_for(WorkerRegistered)
        armed = "select last_value / 1000 > extract(epoch from now()) from pqlite.wake_until"
        await until(lambda: conn.fetchval(armed), "the worker to fall asleep")
        await conn.execute("select id from pqlite.enqueue('t')")
        await log.wait_for(JobStarted)
        diagnosis = worker.diagnosis()
        assert diagnosis is not None
        assert (diagnosis.pooling, diagnosis.hears) == (Pooling.NONE, True)


async def test_that_it_leads_to_another_database_is_said(
    dsn: str, empty_dsn: str, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn = await asyncpg.connect(empty_dsn)
    await schema.migrate(conn)
    await conn.close()
    monkeypatch.setattr(claimer, "MAX_REFUSALS", 2)

    store = PgJobStore(dsn=dsn, listen_dsn=empty_dsn)
    async with store, Worker(store, {"t": nothing}, observers=[log], idle_policy=IdlePollPolicy(0.1, 0.1)) as worker:
        await store.enqueue("t")
        failed = await log.wait_for(LoopFailed, lambda event: event.part == "claimer")
        assert "does listen_dsn lead to another database?" in str(failed.error)
        assert "does listen_dsn lead to another database?" in str(worker.trouble())


async def test_it_is_not_enough_for_a_worker(dsn: str) -> None:
    async with asyncpg.create_pool(dsn, min_size=0, max_size=2) as pool:
        async with PgJobStore(pool=pool, listen_dsn=dsn) as store:
            with pytest.raises(ConfigurationError, match="give PgJobStore dsn= or connect= beside pool="):
                async with Worker(store, {"t": nothing}):
                    pass


def test_it_does_not_say_where_the_database_is() -> None:
    with pytest.raises(ConfigurationError, match="pass dsn=, pool= or connect="):
        PgJobStore(listen_dsn="postgresql://")


async def test_that_the_role_keeps_the_waking_trigger_from_its_work_is_said_once(
    dsn: str, conn: asyncpg.Connection, log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    await set_for_the_database(conn, {"session_replication_role": "replica"})

    async with Worker(PgJobStore(dsn=dsn), {"t": nothing}, observers=[log]):
        await log.wait_for(WorkerRegistered)
        await conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pqlite sentinel' "
            "and datname = current_database()"
        )
        others = "select count(*) from pqlite.workers where renewed_at > started_at"
        await until(lambda: conn.fetchval(others), "the worker to connect again")

    assert len([record for record in caplog.records if "session_replication_role" in record.getMessage()]) == 1
