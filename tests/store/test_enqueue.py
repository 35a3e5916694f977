import json
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from pqlite import InvalidJob, NotStarted, PgJobStore
from tests.store.conftest import Connect
from tests.store.workers import fetch_job

# Enqueueing


async def test_enqueue_returns_the_id_of_the_new_row(store: PgJobStore, conn: asyncpg.Connection) -> None:
    job_id = await store.enqueue("summarize")

    assert await conn.fetchval("select array_agg(id) from pqlite.jobs") == [job_id]


async def test_a_job_of_which_only_the_type_is_given_gets_the_documented_defaults(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    row = await fetch_job(conn, await store.enqueue("summarize"))

    assert (row["status"], row["queue"], row["priority"], row["max_attempts"]) == ("READY", "default", 0, 5)
    assert (row["payload"], row["metadata"], row["tags"], row["errors"]) == ("{}", "{}", [], "[]")
    assert (row["attempts"], row["claims"], row["crashes"], row["waiting_on"]) == (0, 0, 0, 0)
    assert abs(row["run_after"] - row["created_at"]) < timedelta(seconds=5)
    assert {name for name, value in row.items() if value is None} == {
        *("cancel_requested_at", "concurrency_key", "dedupe_key", "duration_ms", "expires_at", "finished_at"),
        *("last_error", "locked_at", "locked_by", "progress", "result", "timeout_seconds"),
    }


async def test_a_store_says_that_it_is_not_started_before_start_and_after_close(dsn: str) -> None:
    store = PgJobStore(dsn=dsn)
    with pytest.raises(NotStarted, match="not started"):
        await store.enqueue("t")

    async with store:
        await store.enqueue("t")

    with pytest.raises(NotStarted, match="not started"):
        await store.enqueue("t")


# Refusals


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"job_type": ""}, "job_type must be 1 to 200 bytes long, not 0: ''"),
        ({"job_type": "é" * 101}, "job_type must be 1 to 200 bytes long, not 202"),
        ({"job_type": 7}, "job_type must be a string, or a job .* not 7"),
        ({"job_type": "a\x00b"}, "job_type contains a NUL character"),
        ({"job_type": "a\ud800"}, "job_type contains a lone surrogate"),
        ({"queue": ""}, "queue must be 1 to 200 bytes long"),
        ({"queue": None}, "queue must be a string, not None"),
        ({"dedupe_key": ""}, "dedupe_key must be 1 to 1024 bytes long"),
        ({"dedupe_key": "k" * 1025}, "dedupe_key must be 1 to 1024 bytes long, not 1025"),
        ({"concurrency_key": "k" * 1025}, "concurrency_key must be 1 to 1024 bytes long"),
        ({"priority": 2**31}, "priority must be a whole number from -2147483647 to 2147483647, not 2147483648"),
        ({"priority": 1.0}, "priority must be a whole number"),
        ({"priority": True}, "priority must be a whole number"),
        ({"max_attempts": 0}, "max_attempts must be a whole number from 1"),
        ({"timeout_seconds": 0}, "timeout_seconds must be a number above 0, not 0"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds must be a number above 0"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds must be a number above 0"),
        ({"timeout_seconds": 10**400}, "timeout_seconds must be a number above 0"),
        ({"timeout_seconds": "5"}, "timeout_seconds must be a number above 0, not '5'"),
        ({"tags": "ab"}, "tags must be a list of strings, not 'ab'"),
        ({"tags": 7}, "tags must be a list of strings, not 7"),
        ({"tags": [7]}, "tags must be a list of strings"),
        ({"tags": [""]}, "a tag must be 1 to 200 bytes long"),
        ({"metadata": ["a"]}, "metadata must be a JSON object"),
        ({"metadata": "a"}, "metadata must be a JSON object"),
        ({"metadata": {"a": float("nan")}}, "metadata.a is nan"),
        ({"run_after": 60}, "run_after must be a datetime or a timedelta, not 60"),
        ({"run_after": datetime.max}, "run_after is .*, which is out of bounds"),
        ({"run_after": datetime.min}, "run_after is .*, which is out of bounds"),
        ({"run_after": datetime(1, 1, 1, tzinfo=UTC)}, "run_after is .*, which is out of bounds"),
        ({"run_after": timedelta.max}, "a job waits 100 years at most"),
        ({"expires_at": timedelta(1)}, "expires_at must be a datetime"),
        ({"expires_at": datetime.max.replace(tzinfo=UTC)}, "expires_at is .*, which is out of bounds"),
    ],
)
async def test_a_value_out_of_bounds_is_refused_in_a_sentence_before_any_sql(
    fields: dict[str, Any], sentence: str
) -> None:
    # nothing listens there
    async with PgJobStore(dsn="postgresql://127.0.0.1:1/nowhere") as store:
        with pytest.raises(InvalidJob, match=sentence):
            await store.enqueue(**{"job_type": "t"} | fields)


# Time


async def test_a_delay_is_counted_by_the_servers_clock(store: PgJobStore, conn: asyncpg.Connection) -> None:
    before = await conn.fetchval("select clock_timestamp()")
    job = await store.get(await store.enqueue("t", run_after=timedelta(hours=1)))
    after = await conn.fetchval("select clock_timestamp()")

    assert before <= job.run_after - timedelta(hours=1) <= after


async def test_a_delay_of_days_is_as_long_in_a_session_whose_clocks_change_in_between(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    zone = ZoneInfo("America/New_York")
    now = datetime.now(zone)
    days = next(n for n in range(365) if (now + timedelta(n)).utcoffset() != now.utcoffset())
    await conn.execute("set timezone = 'America/New_York'")

    one = await store.enqueue("t", run_after=timedelta(days=days), conn=conn)
    [(many, _)] = await store.enqueue_many([{"job_type": "t", "run_after": timedelta(days=days)}], conn=conn)

    for job_id in (one, many):
        job = await store.get(job_id)
        assert abs(job.run_after - job.created_at - timedelta(days=days)) < timedelta(seconds=5)


# The caller's connection


async def test_a_job_enqueued_on_the_callers_connection_exists_when_the_caller_commits(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect
) -> None:
    elsewhere = await connect()

    async with conn.transaction():
        job_id = await store.enqueue("t", conn=conn)
        assert await elsewhere.fetchval("select count(*) from pqlite.jobs") == 0

    assert await elsewhere.fetchval("select array_agg(id) from pqlite.jobs") == [job_id]


async def test_a_job_enqueued_on_the_callers_connection_is_rolled_back_with_the_caller(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    transaction = conn.transaction()
    await transaction.start()
    await store.enqueue("one", dedupe_key="k", conn=conn)
    await store.enqueue_many([{"job_type": "many"}], conn=conn)
    await transaction.rollback()

    assert await conn.fetchval("select count(*) from pqlite.jobs") == 0


async def test_a_connection_of_the_stores_own_transaction_is_accepted(store: PgJobStore) -> None:
    async with store.transaction() as own:
        job_id = await store.enqueue("t", conn=own)

    assert (await store.get(job_id)).job_type == "t"


async def test_enqueue_leaves_the_callers_lock_timeout_as_it_was(store: PgJobStore, conn: asyncpg.Connection) -> None:
    async with conn.transaction():
        await conn.execute("set local lock_timeout = '1234ms'")
        await store.enqueue("t", dedupe_key="k", conn=conn)
        await store.enqueue_many([{"job_type": "t", "dedupe_key": "l"}], conn=conn)
        await conn.execute("select * from pqlite.enqueue('t', dedupe_key => 'm', lock_wait => '5 s')")

        assert await conn.fetchval("show lock_timeout") == "1234ms"


async def test_a_json_codec_on_the_callers_connection_does_not_encode_twice(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    for name in ("json", "jsonb"):
        await conn.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")

    one = await store.enqueue("t", {"a": 1}, metadata={"b": 2}, conn=conn)
    [(many, _)] = await store.enqueue_many([{"job_type": "t", "payload": {"a": 1}, "metadata": {"b": 2}}], conn=conn)

    for job_id in (one, many):
        job = await store.get(job_id)
        assert (job.payload, job.metadata) == ({"a": 1}, {"b": 2})


async def test_a_json_codec_on_a_given_pool_changes_nothing_that_is_stored_or_read(dsn: str) -> None:
    async def init(connection: asyncpg.Connection) -> None:
        await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")

    async with asyncpg.create_pool(dsn, min_size=1, max_size=2, init=init) as pool, PgJobStore(pool=pool) as store:
        await store.enqueue("t", {"a": [1]})
        job = await store.pickup("me")
        assert job is not None
        await store.mark_done(job, result={"b": 2})

        done = await store.get(job.id)
        assert (job.payload, done.payload, done.result) == ({"a": [1]}, {"a": [1]}, {"b": 2})


# Listeners


async def test_a_listener_hears_of_committed_enqueues_of_this_store_until_it_is_removed(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    heard: list[str] = []
    stop = store.on_enqueue(lambda: heard.append("enqueued"))

    await store.enqueue("t")
    await store.enqueue_many([{"job_type": "t"}])
    assert len(heard) == 2

    await store.enqueue("t", conn=conn)  # whether it is committed is the caller's business
    stop()
    await store.enqueue("t")
    assert len(heard) == 2
