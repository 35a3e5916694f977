"""What programs without pqlite's Python may rely on: plain INSERTs, and functions with named arguments."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest

from pqlite import PgJobStore

PLAIN = """
    insert into pqlite.jobs (job_type, payload, dedupe_key) values ('t', '{"a": 1}', $1)
    on conflict (dedupe_key) where dedupe_key is not null and status in ('READY', 'RUNNING') do nothing
    returning id
"""


async def test_a_plain_insert_makes_a_job_that_is_picked_up(store: PgJobStore, conn: asyncpg.Connection) -> None:
    job_id = await conn.fetchval("insert into pqlite.jobs (job_type) values ('t') returning id")

    job = await store.pickup("me")

    assert job is not None
    assert (job.id, job.payload, job.max_attempts, job.queue) == (job_id, {}, 5, "default")


@pytest.mark.parametrize("status", ["READY", "RUNNING", "BLOCKED"])
async def test_a_plain_insert_of_an_active_key_does_nothing(conn: asyncpg.Connection, status: str) -> None:
    """The index covers one state more than the statement names, and is inferred all the same."""
    assert await conn.fetchval(PLAIN, "k") is not None
    locked_by = "somebody" if status == "RUNNING" else None
    await conn.execute("update pqlite.jobs set status = $1, locked_by = $2", status, locked_by)

    assert await conn.fetchval(PLAIN, "k") is None
    assert await conn.fetchval(PLAIN, "l") is not None


async def test_a_plain_insert_of_a_finished_key_makes_a_job(conn: asyncpg.Connection) -> None:
    await conn.fetchval(PLAIN, "k")
    await conn.execute("update pqlite.jobs set status = 'DONE'")

    assert await conn.fetchval(PLAIN, "k") is not None


async def test_a_plain_insert_of_many_rows_without_keys_is_not_taken_for_duplicates(conn: asyncpg.Connection) -> None:
    for _ in range(3):
        assert await conn.fetchval(PLAIN, None) is not None


async def test_enqueue_takes_named_arguments_and_says_whether_the_job_is_new(conn: asyncpg.Connection) -> None:
    first = await conn.fetchrow("select * from pqlite.enqueue('t', '{}', dedupe_key => 'k')")
    second = await conn.fetchrow("select * from pqlite.enqueue('t', '{}', dedupe_key => 'k')")

    assert first is not None
    assert second is not None
    assert dict(first) == {"id": first["id"], "inserted": True, "cancelling": False}
    assert dict(second) == {"id": first["id"], "inserted": False, "cancelling": False}


async def test_the_type_alone_is_enough_for_enqueue(store: PgJobStore, conn: asyncpg.Connection) -> None:
    job = await store.get(await conn.fetchval("select id from pqlite.enqueue('t')"))

    by_python = await store.get(await store.enqueue("t"))
    for name in ("payload", "queue", "priority", "max_attempts", "timeout_seconds", "tags", "metadata", "status"):
        assert getattr(job, name) == getattr(by_python, name), name


async def test_every_argument_of_the_sql_function_is_stored(conn: asyncpg.Connection) -> None:
    job_id = await conn.fetchval(
        """
        select id from pqlite.enqueue(
          job_type => 't', payload => '{"a": 1}', dedupe_key => 'k', delay => '1 hour', priority => 3,
          max_attempts => 2, timeout_seconds => 1.5, queue => 'q', tags => '{x,y}', metadata => '{"m": 1}',
          concurrency_key => 'c', expires_at => '2199-01-01 00:00Z')
        """
    )

    row = dict(await conn.fetchrow("select * from pqlite.jobs where id = $1", job_id) or {})
    assert abs(row["run_after"] - row["created_at"] - timedelta(hours=1)) < timedelta(seconds=5)
    expected = {
        **{"job_type": "t", "dedupe_key": "k", "priority": 3, "max_attempts": 2, "timeout_seconds": 1.5},
        **{"queue": "q", "tags": ["x", "y"], "concurrency_key": "c"},
    }
    assert {name: row[name] for name in expected} == expected
    assert (json.loads(row["payload"]), json.loads(row["metadata"])) == ({"a": 1}, {"m": 1})
    assert row["expires_at"].year == 2199


async def test_a_delay_is_added_to_a_time_that_is_given(conn: asyncpg.Connection) -> None:
    await conn.execute("set timezone = 'Europe/Berlin'")
    job_id = await conn.fetchval(
        "select id from pqlite.enqueue('t', run_after => '2026-03-28 11:00 Europe/Berlin', delay => '1 day')"
    )

    # the night between has 23 hours
    due = "select run_after = '2026-03-29 12:00 Europe/Berlin' from pqlite.jobs where id = $1"
    assert await conn.fetchval(due, job_id)


async def test_enqueue_without_a_wait_leaves_the_sessions_lock_timeout_in_charge(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await conn.execute("set lock_timeout = '20ms'")
    async with store.transaction() as own:
        await own.execute("select pqlite.enqueue('t', dedupe_key => 'k')")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await conn.execute("select pqlite.enqueue('t', dedupe_key => 'k')")


@pytest.mark.parametrize(
    "values",
    [
        *["(job_type) values ('')", "(job_type, queue) values ('t', '')", "(job_type, dedupe_key) values ('t', '')"],
        "(job_type, dedupe_key) values ('t', repeat('k', 1025))",
        "(job_type, concurrency_key) values ('t', repeat('k', 1025))",
        *["(job_type, max_attempts) values ('t', 0)", "(job_type, timeout_seconds) values ('t', 0)"],
        *["(job_type, run_after) values ('t', 'infinity')", "(job_type, status) values ('t', 'ready')"],
        *["(job_type, status) values ('t', 'RUNNING')", "(job_type, locked_by) values ('t', 'somebody')"],
    ],
)
async def test_a_row_that_the_engine_could_not_serve_is_refused_by_the_table(
    conn: asyncpg.Connection, values: str
) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await conn.execute(f"insert into pqlite.jobs {values}")


async def test_cancel_and_retry_say_what_they_found(conn: asyncpg.Connection) -> None:
    job_id = await conn.fetchval("select id from pqlite.enqueue('t')")

    assert await conn.fetchval("select pqlite.cancel($1)", job_id) == "CANCELLED"
    assert await conn.fetchval("select pqlite.retry($1)", job_id) == "CANCELLED"
    await conn.fetch("select id from pqlite.pickup('me', null, null)")
    assert await conn.fetchval("select pqlite.cancel($1)", job_id) == "REQUESTED"
    assert await conn.fetchval("select pqlite.cancel(404)") is None
    assert await conn.fetchval("select pqlite.retry(404)") is None


async def test_enqueue_many_takes_named_arrays_and_gives_defaults_for_what_is_missing(
    conn: asyncpg.Connection,
) -> None:
    verdicts = await conn.fetch(
        """
        select * from pqlite.enqueue_many(
          '{a,b,c,d}', p_dedupe_key => '{z,null,y,z}', p_priority => '{null,7}', p_queue => '{q}',
          p_tags => '{null,[]}')
        order by ordinal
        """
    )

    assert [(row["ordinal"], row["inserted"]) for row in verdicts] == [(1, True), (2, True), (3, True), (4, False)]
    assert verdicts[3]["id"] == verdicts[0]["id"]
    rows = await conn.fetch(
        "select job_type, payload::text, dedupe_key, priority, max_attempts, queue, tags, metadata::text "
        "from pqlite.jobs order by job_type"
    )
    assert [tuple(row) for row in rows] == [
        ("a", "{}", "z", 0, 5, "q", [], "{}"),
        ("b", "{}", None, 7, 5, "q", [], "{}"),
        ("c", "{}", "y", 0, 5, "q", [], "{}"),
    ]


async def test_an_array_of_one_element_stands_for_all_jobs_of_a_batch(conn: asyncpg.Connection) -> None:
    many = "select id from pqlite.enqueue_many('{t}', '{1,2,3}', p_queue => '{q}', p_run_after => '{2199-01-01}')"
    keyless = "select unnest(pqlite.enqueue_keyless('{t}', '{1,2,3}', '{2199-01-01}', p_queue => '{q}')) as id"
    for sql in (many, keyless):
        ids = [row["id"] for row in await conn.fetch(sql)]
        rows = await conn.fetch(
            "select payload::text, job_type, queue, extract(year from run_after)::int from pqlite.jobs "
            "where id = any ($1) order by id",
            ids,
        )
        assert [tuple(row) for row in rows] == [(payload, "t", "q", 2199) for payload in "123"]


async def test_enqueue_keyless_returns_the_ids_in_the_order_given(conn: asyncpg.Connection) -> None:
    ids = await conn.fetchval("select pqlite.enqueue_keyless('{a,b,c}', array['{\"n\": 1}', null, '3'])")

    rows = await conn.fetch("select id, job_type, payload::text from pqlite.jobs order by job_type")
    assert [tuple(row) for row in rows] == [(ids[0], "a", '{"n": 1}'), (ids[1], "b", "{}"), (ids[2], "c", "3")]
    assert await conn.fetchval("select pqlite.enqueue_keyless('{}')") == []


async def test_a_batch_without_a_job_type_is_refused(conn: asyncpg.Connection) -> None:
    for function in ("enqueue_many", "enqueue_keyless"):
        for arguments in ("null, '{1,2}'", "'{t,null}', '{1,2}'", "'{t,t}', '{1,2,3}'"):
            with pytest.raises(asyncpg.NotNullViolationError):
                await conn.execute(f"select pqlite.{function}({arguments})")


@asynccontextmanager
async def acting_as(conn: asyncpg.Connection, *grants: str) -> AsyncIterator[None]:
    """Be a role that was given no more than this. Roles belong to the server, so it goes with the transaction."""
    transaction = conn.transaction()
    await transaction.start()
    try:
        await conn.execute("create role pqlite_test_role; grant usage on schema pqlite to pqlite_test_role")
        for grant in grants:
            await conn.execute(f"grant {grant} to pqlite_test_role")
        await conn.execute("set local role pqlite_test_role")
        yield
    finally:
        await transaction.rollback()


async def is_forbidden(conn: asyncpg.Connection, sql: str) -> bool:
    try:
        async with conn.transaction():
            await conn.execute(sql)
    except asyncpg.InsufficientPrivilegeError:
        return True
    return False


async def test_a_producer_of_plain_inserts_needs_no_more_than_to_insert(conn: asyncpg.Connection) -> None:
    await conn.execute("select pqlite.arm(60000)")  # so that the trigger notifies

    async with acting_as(conn, "insert, select on pqlite.jobs"):
        assert await conn.fetchval(PLAIN, "k") is not None
        assert await conn.fetchval(PLAIN, "k") is None
        assert await is_forbidden(conn, "select pqlite.enqueue('t')")
        assert await is_forbidden(conn, "delete from pqlite.jobs")
        assert await is_forbidden(conn, "update pqlite.jobs set priority = 9")
        assert await is_forbidden(conn, "select from pqlite.workers")
        assert await is_forbidden(conn, "select pqlite.arm(60000)")
        assert await is_forbidden(conn, "select nextval('pqlite.jobs_id_seq')")


async def test_a_producer_of_one_function_needs_no_more_than_to_execute_it(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await conn.execute("select pqlite.arm(60000)")

    async with acting_as(conn, "execute on function pqlite.enqueue"):
        job_id = await store.enqueue("t", dedupe_key="k", conn=conn)
        assert await store.enqueue("t", dedupe_key="k", conn=conn) == job_id
        assert await is_forbidden(conn, "select pqlite.job(1)")
        assert await is_forbidden(conn, "select pqlite.cancel(1)")
        assert await is_forbidden(conn, "select from pqlite.jobs")


async def test_a_plain_insert_wakes_those_who_sleep_and_a_duplicate_nobody(dsn: str, conn: asyncpg.Connection) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    listener = await asyncpg.connect(dsn)
    await listener.add_listener("pqlite_wake", lambda *args: told.put_nowait(args[3]))
    await listener.add_listener("test_end", lambda *args: told.put_nowait("the end"))
    await conn.execute("select pqlite.arm(60000)")

    for _ in range(2):
        await conn.fetchval(PLAIN, "k")
    await conn.execute("notify test_end")

    async with asyncio.timeout(10):
        assert [await told.get(), await told.get()] == ['["default"]', "the end"]
    await listener.close()


async def test_job_returns_the_whole_job_and_nothing_for_an_id_that_is_none(conn: asyncpg.Connection) -> None:
    job_id = await conn.fetchval("select id from pqlite.enqueue('t', '{\"a\": 1}', dedupe_key => 'k')")

    found = dict(await conn.fetchrow("select * from pqlite.job($1)", job_id) or {})
    row = dict(await conn.fetchrow("select * from pqlite.jobs where id = $1", job_id) or {})
    assert found == row
    assert await conn.fetch("select * from pqlite.job(404)") == []


async def test_ended_returns_what_has_ended_and_what_is_gone(conn: asyncpg.Connection) -> None:
    ids = [await conn.fetchval("select id from pqlite.enqueue('t')") for _ in range(4)]
    await conn.execute("select pqlite.cancel($1)", ids[0])
    await conn.execute(
        "update pqlite.jobs set status = 'DONE', result = '{\"a\": 1}', finished_at = now() where id = $1", ids[1]
    )
    await conn.execute("update pqlite.jobs set run_after = now() + interval '1 day' where id = $1", ids[2])

    found = await conn.fetch("select id, status, result from pqlite.ended($1) order by id", [*ids, 404])

    ended = [(ids[0], "CANCELLED", None), (ids[1], "DONE", '{"a": 1}'), (404, None, None)]
    assert [tuple(row) for row in found] == ended
    assert await conn.fetch("select * from pqlite.ended('{}')") == []


async def test_a_worker_can_do_its_work_with_the_grants_that_are_documented(conn: asyncpg.Connection) -> None:
    grants = (
        "select, insert, update, delete on pqlite.jobs, pqlite.workers",
        "execute on all functions in schema pqlite",
        "select, update on sequence pqlite.wake_until, pqlite.wake_all",
        f"select, update on sequence {', '.join(f'pqlite.wake_{n}' for n in range(8))}",
    )
    async with acting_as(conn, *grants):
        for verb in (
            "register('w', 'w', 1, '20 s', '{}')",
            "enqueue('t', dedupe_key => 'k')",
            "enqueue_many('{t}', '{1,2}')",
            "claim('w', 1, true, null, null, '{default}', '{t}', '{0}', '{-infinity}', '{0}')",
            "renew('w', '20 s', 1)",
            "settle('w', '{1}', '{1}', '{RELEASED}', '{null}', '{null}', '{0}', '{null}')",
            "cancel(1)",
            "retry(1)",
            "pickup('me', null, null)",
            "arm(1000)",
            "arm(1000, '{default,a,b}')",
            "disown('w', '{}', '1 hour', now())",
            "reap('w')",
            "reap_stale('0 s')",
            "next_death('w')",
            "lanes(null, null)",
            "prune('0 s', '0 s', null, 1000)",
            "unregister('w')",
        ):
            await conn.execute(f"select pqlite.{verb}")
        assert await is_forbidden(conn, "drop table pqlite.jobs")


async def test_a_stranger_cannot_lend_the_trigger_functions_of_its_own(conn: asyncpg.Connection) -> None:
    """The trigger runs with the owner's rights: it must not look names up where its caller can put something."""
    await conn.execute(
        """
        create schema hostile;
        create function hostile.pg_notify(text, text) returns void language plpgsql
          as $$ begin raise exception 'I run as %', current_user; end $$;
        create function hostile.clock_timestamp() returns timestamptz language plpgsql
          as $$ begin raise exception 'I run as %', current_user; end $$;
        select pqlite.arm(60000);
        """
    )
    async with acting_as(conn, "insert, select on pqlite.jobs", "usage on schema hostile"):
        await conn.execute("set local search_path = hostile, pg_catalog")
        await conn.execute("insert into pqlite.jobs (job_type) values ('t')")


@pytest.mark.parametrize(
    "call",
    [
        "select * from pqlite.enqueue('t')",
        "select * from pqlite.enqueue('t', dedupe_key => 'k')",
        "select * from pqlite.enqueue_many('{t,t}')",
        "select * from pqlite.enqueue_many('{t}', p_dedupe_key => '{k,l}')",
        "select pqlite.enqueue_keyless('{t,t}')",
    ],
)
async def test_jobs_that_a_trigger_suppresses_are_an_error_that_says_so(conn: asyncpg.Connection, call: str) -> None:
    await conn.execute("create function nothing() returns trigger language plpgsql as 'begin return null; end'")
    await conn.execute("create trigger suppress before insert on pqlite.jobs for each row execute function nothing()")

    with pytest.raises(asyncpg.PostgresError, match=r"a trigger on the jobs table (has suppressed|suppresses)"):
        await conn.fetch(call)
