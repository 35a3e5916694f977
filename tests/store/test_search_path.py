"""Whatever schema stands in front of a caller's search_path, and whatever it holds, pqlite's functions are pqlite's."""

from datetime import timedelta

import asyncpg
import pytest

from pqlite import PgJobStore
from pqlite.outcome import Verb
from tests.store.conftest import Register
from tests.store.test_sessions import use_everything
from tests.store.workers import RegisteredWorker

# Of the same name as ours; and as the system's, for the very types that ours use: those win over `anyarray`, even where
# the system's schema comes first. Whoever may create objects in a schema of somebody's path can do this.
EVIL = """
create schema evil;
create table evil.jobs (id bigint);
create table evil.workers (id text);
create function evil.alarm() returns int language plpgsql as $$ begin raise exception 'evil was called'; end $$;
create function evil.enqueue(text, jsonb) returns int language sql as 'select evil.alarm()';
create function evil.wake(text[], text) returns void language sql as 'select evil.alarm()';
create function evil.draw_ids(int) returns bigint[] language sql as 'select array[evil.alarm()]';
create function evil.spread(text[], int) returns text[] language sql as 'select array[evil.alarm()::text]';
create function evil.unnest(text[]) returns setof text language sql as 'select evil.alarm()::text';
create function evil.unnest(bigint[]) returns setof bigint language sql as 'select evil.alarm()::bigint';
create function evil.unnest(integer[]) returns setof int language sql as 'select evil.alarm()';
create function evil.unnest(boolean[]) returns setof boolean language sql as 'select evil.alarm() > 0';
create function evil.cardinality(text[]) returns int language sql as 'select evil.alarm()';
create function evil.cardinality(bigint[]) returns int language sql as 'select evil.alarm()';
create function evil.array_prepend(text, text[]) returns text[] language sql as 'select array[evil.alarm()::text]';
create function evil.array_append(text[], text) returns text[] language sql as 'select array[evil.alarm()::text]';
create function evil.array_fill(text, int[]) returns text[] language sql as 'select array[evil.alarm()::text]';
create function evil.to_json(text[]) returns json language sql as 'select evil.alarm()::text::json';
create function evil.now() returns timestamptz language sql as 'select to_timestamp(evil.alarm())';
create function evil.clock_timestamp() returns timestamptz language sql as 'select to_timestamp(evil.alarm())';
create function evil.no(text, text) returns boolean language sql as 'select evil.alarm() > 0';
create function evil.no(bigint, bigint) returns boolean language sql as 'select evil.alarm() > 0';
create function evil.both(bigint[], bigint[]) returns bigint[] language sql as 'select array[evil.alarm()]';
create operator evil.= (leftarg = text, rightarg = text, function = evil.no);
create operator evil.= (leftarg = bigint, rightarg = bigint, function = evil.no);
create operator evil.|| (leftarg = bigint[], rightarg = bigint[], function = evil.both);
"""


@pytest.fixture
async def evil(conn: asyncpg.Connection) -> None:
    """What is there, in front of the search_path of every new session."""
    await conn.execute(EVIL)
    database = await conn.fetchval("select current_database()")
    await conn.execute(f'alter database "{database}" set search_path = evil, public')


@pytest.mark.usefixtures("evil")
async def test_a_schema_in_front_that_shadows_functions_and_operators_changes_nothing(dsn: str) -> None:

    async with PgJobStore(dsn=dsn) as store:
        await use_everything(store)


@pytest.mark.usefixtures("evil")
async def test_a_schema_in_front_that_shadows_functions_changes_nothing_for_workers(
    dsn: str,
    conn: asyncpg.Connection,
    store: PgJobStore,
    register: Register,
) -> None:
    await store.close()
    await store.start()
    worker: RegisteredWorker = await register(lock_key=1)
    ids = [await store.enqueue("t", {"n": n}) for n in range(4)]

    done, retried, held, released = await worker.claim(queues=["default"], types=["t"])
    assert [done.id, retried.id, held.id, released.id] == ids
    assert await worker.settle(done, Verb.DONE, result="1") is None
    assert await worker.settle(retried, Verb.RETRY, error="no", delay=1.0) is None
    assert await worker.settle(released, Verb.RELEASED) is None
    await worker.engine.renew(worker.id, timedelta(seconds=20), 1, deadline=5.0)
    await worker.engine.arm(timedelta(seconds=5), ["default", "other"])
    await store.enqueue("t")
    assert await worker.disown() == [held.id]
    assert await worker.engine.reap(worker.id) == []
    assert await worker.engine.reap_stale(timedelta(seconds=1)) == []
    assert await worker.engine.next_death(worker.id) is None
    assert await worker.engine.unregister(worker.id)


async def test_every_function_brings_its_own_search_path(conn: asyncpg.Connection) -> None:
    """But those that are only written into the statements of others."""
    rows = await conn.fetch(
        "select p.proname from pg_proc p where p.pronamespace = 'pqlite'::regnamespace "
        "and 'search_path=pg_catalog, pg_temp' <> all (coalesce(p.proconfig, '{}'))"
    )
    assert {row[0] for row in rows} == {"draw_ids", "runs_alone", "spread", "too_new", "wanted", "with_error"}
