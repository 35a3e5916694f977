"""What a role or a database sets for its sessions must not change what a worker does."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from pqlite import ConfigurationError, JobStatus, PgJobStore
from pqlite.outcome import Verb
from pqlite.store import connecting, postgres
from tests.store.conftest import Connect
from tests.store.workers import RegisteredWorker, until_blocked

HOSTILE = {
    "statement_timeout": "9s",
    "lock_timeout": "9s",
    "idle_in_transaction_session_timeout": "9s",
    "idle_session_timeout": "9s",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "search_path": "pg_temp",
    "timezone": "Asia/Kathmandu",
    "datestyle": "German",
    "intervalstyle": "sql_standard",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "row_security": "off",
    "transaction_timeout": "9s",
    "default_transaction_deferrable": "on",
    "array_nulls": "off",
    "extra_float_digits": "-15",
    "transform_null_equals": "on",
    "lo_compat_privileges": "on",
    "xmloption": "document",
    "client_encoding": "latin1",
    "plan_cache_mode": "force_generic_plan",
    "enable_indexscan": "off",
    "plpgsql.variable_conflict": "use_variable",
    "plpgsql.extra_errors": "all",
}


async def set_for_the_database(conn: asyncpg.Connection, settings: dict[str, str]) -> None:
    """Let new sessions start with these."""
    database = await conn.fetchval("select current_database()")
    for name, value in settings.items():
        await conn.execute("load 'plpgsql'")
        if await conn.fetchval("select exists (select from pg_settings where lower(name) = $1)", name):
            await conn.execute(f"alter database \"{database}\" set {name} = '{value}'")


async def test_a_workers_verbs_work_whatever_the_database_sets_for_its_sessions(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    for n in range(3):
        await store.enqueue("t", {"n": n})
    await set_for_the_database(conn, HOSTILE)

    engine = store.engine("claimer")
    try:
        for name, value in connecting.SESSION.items():
            [(setting,)] = await engine.link.fetch("select current_setting($1, true)", name, deadline=5.0)
            # Those mean nothing on a unix socket; the last is of PostgreSQL 17.
            assert setting == value or name.startswith("tcp_") or (name, setting) == ("transaction_timeout", None)
        worker = RegisteredWorker(engine, "w")
        await engine.register("w", "w", None, timedelta(seconds=20), {})
        first, second, third = await worker.claim()
        assert await worker.settle(first, Verb.DONE) is None
        assert await worker.settle(second, Verb.RETRY, delay=1.0) is None
        await engine.renew("w", timedelta(seconds=20), None, deadline=5.0)
        await engine.arm(timedelta(seconds=1))
        assert await worker.disown() == [third.id]
        assert await engine.reap("w") == []
        assert await engine.reap_stale(timedelta(seconds=1)) == []
        assert await engine.next_death("w") is None
        assert await engine.unregister("w") is True
    finally:
        await engine.link.close()

    rows = await conn.fetch("select status from pqlite.jobs order by id")
    assert [row["status"] for row in rows] == ["DONE", "READY", "READY"]


async def use_everything(store: PgJobStore) -> None:
    """Call what a store has; assert what it does."""
    job_id = await store.enqueue("t", {"a": "\\ é"}, dedupe_key="k", run_after=timedelta(days=400), tags=["\\", "null"])
    assert await store.enqueue("t", dedupe_key="k") == job_id
    verdicts = await store.enqueue_many([{"job_type": "t", "dedupe_key": "k"}, {"job_type": "t", "dedupe_key": "null"}])
    assert [verdict.inserted for verdict in verdicts] == [False, True]
    assert len(set(await asyncio.gather(*(store.enqueue("many", {"n": n}) for n in range(50))))) == 50
    await store.enqueue_many({"job_type": "many", "timeout_seconds": n + 0.1} for n in range(50))
    job = await store.get(job_id)
    assert (job.payload, job.tags) == ({"a": "\\ é"}, ["\\", "null"])
    assert abs(job.run_after - job.created_at - timedelta(days=400)) < timedelta(seconds=5)
    assert await store.cancel(job_id) is JobStatus.CANCELLED
    assert await store.retry(job_id) is JobStatus.READY

    done, failed, completed = [await store.pickup("me", job_types=["many"]) for _ in range(3)]
    assert done is not None
    assert failed is not None
    assert completed is not None
    await store.mark_done(done, result={"x": 0.1}, duration_ms=None)
    await store.mark_error(failed, "no: é", terminal=True)
    async with store.complete(completed, result=[0.1]) as conn:
        assert await conn.fetchval("select 1") == 1
    ended = [await store.get(job.id) for job in (done, failed, completed)]
    assert [job.status for job in ended] == [JobStatus.DONE, JobStatus.FAILED, JobStatus.DONE]
    assert [job.result for job in ended] == [{"x": 0.1}, None, [0.1]]
    assert ended[1].last_error == "no: é"
    assert datetime.fromisoformat(ended[1].errors[0]["at"]) == ended[1].finished_at
    assert await store.reap_stale(default_stale_after=timedelta(0)) == 0
    assert (await store.prune(timedelta(0), timedelta(0)))[1] == 3


async def test_a_store_does_everything_whatever_the_database_sets_for_its_sessions(
    dsn: str, conn: asyncpg.Connection
) -> None:
    await set_for_the_database(conn, HOSTILE)

    async with PgJobStore(dsn=dsn, pool_size=2) as store:
        await use_everything(store)


async def test_a_store_migrates_whatever_the_database_sets_for_its_sessions(empty_dsn: str) -> None:
    conn = await asyncpg.connect(empty_dsn)
    await set_for_the_database(conn, HOSTILE)
    await conn.close()

    async with PgJobStore(dsn=empty_dsn) as store:
        assert await store.migrate()
        await store.check_schema()
        await use_everything(store)


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_keys_are_exact_whatever_the_default_isolation(
    dsn: str, conn: asyncpg.Connection, connect: Connect, isolation: str
) -> None:
    """In a stricter isolation a session does not see who took its key while it waited, and fails."""
    await set_for_the_database(conn, {"default_transaction_isolation": isolation})

    async with PgJobStore(dsn=dsn) as store:
        holder = conn.transaction(isolation="read_committed")
        await holder.start()
        first = await store.enqueue("t", dedupe_key="k", conn=conn)
        waiting = [asyncio.create_task(store.enqueue("t", dedupe_key="k"))]
        waiting.append(asyncio.create_task(_ids(store, [{"job_type": "t", "dedupe_key": "k"}])))
        await until_blocked(await connect(), 2)
        await holder.commit()

        assert await asyncio.gather(*waiting) == [first, [first]]


async def _ids(store: PgJobStore, jobs: list[dict[str, str]]) -> list[int]:
    return [verdict.id for verdict in await store.enqueue_many(jobs)]


async def test_a_pools_settings_survive_its_users(dsn: str, conn: asyncpg.Connection) -> None:
    await set_for_the_database(conn, HOSTILE)

    async with PgJobStore(dsn=dsn, pool_size=1) as store:
        for _ in range(3):
            async with store.connection() as own:
                for name, value in connecting.OWN.items():
                    assert await own.fetchval("select current_setting($1)", name) == value
                assert await own.fetchval("show intervalstyle") == "sql_standard"
                await own.execute("set intervalstyle = iso_8601; set default_transaction_isolation = serializable")


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("statement_timeout", "canceling statement due to statement timeout"),
        ("lock_timeout", "canceling statement due to lock timeout"),
        ("idle_in_transaction_session_timeout", "idle-in-transaction timeout"),
        ("transaction_timeout", "transaction timeout"),
    ],
)
async def test_a_roles_timeouts_hold_for_what_users_call_and_name_themselves(
    store: PgJobStore, conn: asyncpg.Connection, setting: str, sentence: str
) -> None:
    if not await conn.fetchval("select exists (select from pg_settings where name = $1)", setting):
        pytest.skip(f"this server does not know {setting}")
    job_id = await store.enqueue("t")
    await store.close()
    await set_for_the_database(conn, {setting: "200ms"})
    await store.start()

    async def wait_too_long() -> None:
        if setting.startswith("idle") or setting.startswith("transaction"):
            async with store.transaction() as own:
                await own.execute("select 1")
                heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                own.add_termination_listener(lambda _: heard.set_result(None))
                await heard
                await own.execute("select 1")
        else:
            async with conn.transaction():
                await conn.execute("select from pqlite.jobs for update")
                await store.cancel(job_id)

    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError), match=rf"{sentence}|closed|released"):
        await wait_too_long()
    assert await store.enqueue("t") > job_id


async def test_the_connections_of_a_worker_are_told_apart_by_their_application_name(
    dsn: str, conn: asyncpg.Connection
) -> None:
    async with PgJobStore(dsn=dsn) as store:
        await store.enqueue("t")
        engine = store.engine("claimer")
        await engine.lanes(None, None)

        names = await conn.fetch(
            "select application_name from pg_stat_activity where datname = current_database() and pid <> $1",
            conn.get_server_pid(),
        )
        assert {row[0] for row in names} == {"pqlite", "pqlite claimer"}
        await engine.link.close()


async def test_a_store_with_only_a_pool_serves_enqueue_and_queries_but_no_worker(dsn: str) -> None:
    async with asyncpg.create_pool(dsn, min_size=0, max_size=2) as pool:
        async with PgJobStore(pool=pool) as store:
            assert (await store.get(await store.enqueue("t"))).status is JobStatus.READY
            with pytest.raises(ConfigurationError, match=r"give PgJobStore dsn= or connect= beside pool="):
                store.engine("claimer")
        assert await pool.fetchval("select 1") == 1  # it stays the caller's


async def test_a_store_can_be_given_a_way_to_connect(dsn: str) -> None:
    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(dsn)

    async with PgJobStore(connect=connect) as store:
        await store.enqueue("t")
        engine = store.engine("claimer")
        assert len(await engine.lanes(None, None)) == 1
        await engine.link.close()


def test_a_store_must_be_told_where_the_database_is() -> None:
    with pytest.raises(ConfigurationError, match="pass dsn=, pool= or connect="):
        PgJobStore()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"pool_size": 0}, "pool_size must be a whole number of 1 or more, not 0"),
        ({"max_payload_bytes": "1 MiB"}, "max_payload_bytes must be a whole number of 1 or more, not '1 MiB'"),
        ({"observers": 7}, "observers must be a list of functions, not 7"),
        ({"middleware": print}, r"middleware must be a list, middleware=\[function\], not <built-in"),
    ],
)
def test_an_argument_of_a_store_that_cannot_work_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        PgJobStore(dsn="postgresql://", **options)


@pytest.mark.parametrize("schema", ["", "Jobs", "a-b", 'a"b', "1a", "a" * 42, "a.b", "a b", "jobs\n", "é"])
def test_a_schema_name_that_is_no_plain_identifier_is_refused(schema: str) -> None:
    with pytest.raises(ConfigurationError, match="it must be lower-case letters, digits and _"):
        PgJobStore(dsn="postgresql://", schema=schema)


async def test_the_repr_of_a_store_does_not_tell_its_password() -> None:
    store = PgJobStore(dsn="postgresql://user:secret@host/db?password=secret")

    assert repr(store) == "<PgJobStore schema='pqlite' started=False>"
    async with store:
        assert repr(store) == "<PgJobStore schema='pqlite' started=True>"


async def test_a_store_can_be_started_and_closed_again_and_again(dsn: str) -> None:
    store = PgJobStore(dsn=dsn)
    for _ in range(2):
        await store.start()
        await store.start()
        await store.enqueue("t")
        await store.close()
        await store.close()
    assert not store.started


async def test_a_store_starts_while_its_database_is_away(dsn: str) -> None:
    nowhere = urlsplit(dsn)._replace(netloc="127.0.0.1:1", query="").geturl()

    async with PgJobStore(dsn=nowhere) as store:
        with pytest.raises(ConnectionRefusedError):
            await store.enqueue("t")


async def test_closing_a_store_does_not_wait_for_ever_for_a_connection_in_use(
    dsn: str, conn: asyncpg.Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PgJobStore(dsn=dsn)
    await store.start()
    await store.enqueue("t")
    monkeypatch.setattr(postgres, "CLOSE_SECONDS", 0.01)

    async with conn.transaction():
        await conn.execute("select from pqlite.jobs for update")
        stuck = asyncio.create_task(store.cancel(1))
        await until_blocked(await connect())

        await store.close()

        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await stuck


@pytest.mark.parametrize("query", ["select pg_sleep(60)", "select pg_terminate_backend(pg_backend_pid())"])
async def test_a_link_throws_a_doubtful_connection_away_and_makes_another(store: PgJobStore, query: str) -> None:
    link = store.engine("claimer").link
    first = await link.fetch("select pg_backend_pid()", deadline=5.0)

    with pytest.raises((TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await link.fetch(query, deadline=0.05)
    assert not link.connected

    assert await link.fetch("select pg_backend_pid()", deadline=5.0) != first
    assert (link.generation, link.connected, link.last_error) == (2, True, None)
    await link.close()
    assert not link.connected


async def test_a_link_keeps_its_connection_after_an_ordinary_error_of_the_server(store: PgJobStore) -> None:
    link = store.engine("claimer").link

    with pytest.raises(asyncpg.DivisionByZeroError):
        await link.fetch("select 1 / 0", deadline=5.0)

    assert (link.connected, link.generation) == (True, 1)
    await link.close()
