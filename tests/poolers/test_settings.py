"""What a role sets for its sessions reaches us through a pooler, where we may not change it."""

import asyncio
import logging

import asyncpg
import pytest

from pqlite import JobStatus, PgJobStore, Worker
from pqlite.events import WorkerRegistered
from tests.poolers.conftest import Bounce
from tests.store.test_sessions import HOSTILE, set_for_the_database, use_everything
from tests.support import EventLog, ended, until

# These make statements fail, or the worker deaf; the others change nothing.
NAMED = {
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "array_nulls": "off",
    "statement_timeout": "9s",
    "lock_timeout": "9s",
    "idle_in_transaction_session_timeout": "9s",
    "transaction_timeout": "9s",
    "session_replication_role": "replica",
}


def reports(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "ALTER ROLE" in record.getMessage()]


async def test_what_could_make_statements_fail_is_named_once(
    dsn: str, conn: asyncpg.Connection, bounce: Bounce, caplog: pytest.LogCaptureFixture
) -> None:
    await set_for_the_database(conn, HOSTILE | NAMED)
    known = {name for (name,) in await conn.fetch("select name from pg_settings")}
    pooler = await bounce()

    async with PgJobStore(dsn=pooler.dsn(dsn)) as store:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await store.enqueue("t")
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await store.enqueue("t")

    [report] = reports(caplog)
    pairs = report.partition("because of them: ")[2].partition(". Change")[0].split(", ")
    named = {pair.partition(" = ")[0] for pair in pairs}
    assert named == set(NAMED) & known
    assert "default_transaction_isolation = serializable" in report


async def test_what_could_not_is_not_named_and_changes_nothing(
    dsn: str, conn: asyncpg.Connection, bounce: Bounce, caplog: pytest.LogCaptureFixture
) -> None:
    await set_for_the_database(conn, {name: value for name, value in HOSTILE.items() if name not in NAMED})
    await set_for_the_database(conn, {"statement_timeout": "30s", "lock_timeout": "10s"})
    pooler = await bounce(server_round_robin="1")

    async with PgJobStore(dsn=pooler.dsn(dsn)) as store:
        await use_everything(store)
    assert reports(caplog) == []


async def test_a_worker_works_on_behind_a_pooler_whose_sessions_are_serializable(
    dsn: str, conn: asyncpg.Connection, bounce: Bounce, caplog: pytest.LogCaptureFixture
) -> None:
    """Its statements fail now and then, and are repeated; the sentence says why."""
    await set_for_the_database(conn, {"default_transaction_isolation": "serializable"})
    pooler = await bounce(default_pool_size="6", server_round_robin="1")
    log = EventLog()

    async def nothing(ctx: object) -> None:
        await asyncio.sleep(0)

    store = PgJobStore(dsn=pooler.dsn(dsn))
    with caplog.at_level(logging.WARNING, "pqlite"):
        async with Worker(store, {"t": nothing}, observers=[log], worker_id="one"):
            await log.wait_for(WorkerRegistered)
            ids = [await store.enqueue("t") for _ in range(100)]
            for job_id in ids:
                assert (await ended(store, job_id)).status is JobStatus.DONE
    await until(lambda: reports(caplog), "the report")
    assert len(reports(caplog)) == 1
