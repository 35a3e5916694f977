"""What a worker notices of the schema it runs on: a disabled trigger, a migration that no longer serves it."""

from __future__ import annotations

import logging

import asyncpg
import pytest

from pqlite import PgJobStore, SchemaError
from pqlite.worker import running
from tests.support import ended, until
from tests.worker.conftest import Run


async def nothing(ctx: object) -> None:
    pass


async def test_a_disabled_trigger_is_told_at_the_start_until_migrate_has_enabled_it(
    run: Run,
    store: PgJobStore,
    conn: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, logger="pqlite")
    monkeypatch.setattr(running, "SCHEMA_SECONDS", 0.05)
    await conn.execute("alter table pqlite.jobs disable trigger all")

    async with run({"t": nothing}) as worker:
        assert "trigger jobs_inserted of pqlite.jobs is disabled" in (worker.trouble() or "")
        assert "ENABLE TRIGGER jobs_inserted" in caplog.text
        await store.migrate()
        await until(worker.healthy, "the trigger to be seen again")

    assert await conn.fetchval("select tgenabled from pg_trigger where tgname = 'jobs_inserted'") == b"O"


async def test_a_trigger_that_fires_on_replicas_only_is_enabled_too(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await conn.execute("alter table pqlite.jobs enable replica trigger jobs_inserted")
    assert await store.check_schema() is not None

    await store.migrate()

    assert await store.check_schema() is None


async def test_a_migration_that_no_longer_serves_a_running_worker_stops_its_claims(
    run: Run, store: PgJobStore, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "SCHEMA_SECONDS", 0.05)
    async with run({"t": nothing}) as worker:
        await conn.execute("insert into pqlite.migrations (version, name, serves) values (999, 'later', 999)")
        await until(lambda: "SchemaError" in (worker.trouble() or ""), "the worker to notice")
        job = await store.enqueue("t")
        await conn.execute("delete from pqlite.migrations where version = 999")
        await ended(store, job)  # it claims again


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_missing_schema_is_named_with_the_command_that_makes_it(empty_dsn: str, key: str | None) -> None:
    async with PgJobStore(dsn=empty_dsn) as store:
        with pytest.raises(SchemaError, match="run 'pqlite migrate'"):
            await store.enqueue("t", dedupe_key=key)
        with pytest.raises(SchemaError, match="run 'pqlite migrate'"):
            await store.get(1)


async def test_a_function_that_a_trigger_of_the_users_misses_is_not_taken_for_the_schema(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await conn.execute(
        "create function public.broken() returns trigger language plpgsql as "
        "$$ begin perform public.nowhere(); return null; end $$; "
        "create trigger broken after insert on pqlite.jobs for each statement execute function public.broken()"
    )
    with pytest.raises(asyncpg.UndefinedFunctionError, match="nowhere"):
        await store.enqueue("t", dedupe_key="k")
