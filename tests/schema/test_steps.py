"""How a migration is applied: its waits, its leftovers, its rivals."""

import asyncio
import re

import asyncpg
import pytest

from pqlite import SchemaError, adoption, schema
from pqlite.schema import Patience
from tests.schema.conftest import QUICK, Future
from tests.support import until

NEXT = schema.latest() + 1
COLUMN = "-- pqlite: serves 1\nalter table pqlite.jobs add column extra int;"
INDEX = "-- pqlite: no transaction\ncreate index concurrently if not exists jobs_extra on pqlite.jobs (created_at);"
VALID = "select indisvalid from pg_index where indexrelid = to_regclass($1)"


async def waits_for_a_lock(conn: asyncpg.Connection) -> None:
    """Return when some session waits for a lock."""
    await until(lambda: conn.fetchval("select count(*) from pg_locks where not granted"), "a waiting session")


@pytest.fixture
async def other(dsn: str):
    connection = await asyncpg.connect(dsn, server_settings={"application_name": "nightly report"})
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


@pytest.fixture
async def watcher(dsn: str):
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


# Locks


async def test_a_step_that_finds_a_lock_held_is_tried_again_until_it_is_free(
    conn: asyncpg.Connection, other: asyncpg.Connection, watcher: asyncpg.Connection, future: Future
) -> None:
    reading = other.transaction()
    await reading.start()
    await other.execute("select from pqlite.jobs")

    migrating = asyncio.create_task(schema.migrate(conn, patience=QUICK, root=future(COLUMN)))
    await waits_for_a_lock(watcher)
    # It has given up once, so others got through.
    await until(lambda: watcher.fetchval("select not exists (select from pg_locks where not granted)"))
    await watcher.execute("insert into pqlite.jobs (job_type) values ('t')")
    await waits_for_a_lock(watcher)
    await reading.rollback()

    assert await migrating == [NEXT]


async def test_a_step_that_never_gets_its_lock_says_which_and_who_holds_it_but_not_what_they_run(
    conn: asyncpg.Connection, other: asyncpg.Connection, future: Future
) -> None:
    async with other.transaction():
        pid = await other.fetchval("select pg_backend_pid(), 's3cret' from pqlite.jobs right join (select) d on true")

        with pytest.raises(SchemaError) as caught:
            await schema.migrate(conn, patience=Patience(0.05, tries=2, pause=0.0), root=future(COLUMN))

    sentence = str(caught.value)
    assert sentence.startswith(f"Migration {NEXT:04d}_later could not be done in 2 tries: ")
    holder = rf"Sessions that hold locks: {pid} \(nightly report, idle in transaction, in a transaction for \d+ s\)\."
    assert re.search(holder, sentence)
    assert "s3cret" not in sentence
    assert await schema.version(conn) == NEXT - 1


async def test_the_wait_for_other_migrators_is_bounded_and_names_them(
    conn: asyncpg.Connection, other: asyncpg.Connection, future: Future
) -> None:
    async with other.transaction():
        await other.execute("select pg_advisory_xact_lock(hashtextextended('pqlite migrate', 0))")

        with pytest.raises(SchemaError, match=r"could not be done in 3 tries: .*nightly report"):
            await schema.migrate(conn, patience=Patience(0.05, tries=3, pause=0.0), root=future(COLUMN))


async def test_migrating_leaves_nothing_in_the_session_which_may_be_a_poolers(
    conn: asyncpg.Connection, future: Future
) -> None:
    await conn.execute("set lock_timeout = '4321ms'; set statement_timeout = '54321ms'")
    settings = "select name, setting from pg_settings where name !~ '^plpgsql' order by name"
    before = await conn.fetch(settings)

    await schema.migrate(conn, root=future(COLUMN, INDEX))

    assert await conn.fetch(settings) == before
    assert await conn.fetchval("select count(*) from pg_locks where locktype = 'advisory'") == 0


async def test_a_connection_in_a_transaction_is_refused(conn: asyncpg.Connection) -> None:
    async with conn.transaction():
        for act in (schema.migrate, schema.uninstall, adoption.adopt):
            with pytest.raises(SchemaError, match="Each step needs a transaction of its own"):
                await act(conn)


async def test_a_migration_that_fails_leaves_the_one_before_it_and_nothing_of_its_own(
    conn: asyncpg.Connection, future: Future
) -> None:
    broken = "alter table pqlite.jobs add column half int; alter table pqlite.jobs add column id int;"

    with pytest.raises(asyncpg.DuplicateColumnError):
        await schema.migrate(conn, root=future(COLUMN, broken))

    assert await schema.version(conn) == NEXT
    columns = "select array_agg(attname::text) from pg_attribute where attrelid = 'pqlite.jobs'::regclass"
    assert {"extra", "half"} & set(await conn.fetchval(columns)) == {"extra"}


async def test_a_migration_goes_no_further_than_it_was_told(conn: asyncpg.Connection, future: Future) -> None:
    root = future(COLUMN, "-- pqlite: serves 1\nselect 1;")

    assert await schema.migrate(conn, to=NEXT, root=root) == [NEXT]
    assert await schema.migrate(conn, to=NEXT, root=root) == []
    assert await conn.fetchval("select functions is null from pqlite.migrations where version = $1", NEXT)
    assert await schema.migrate(conn, root=root) == [NEXT + 1]
    for nowhere in (0, NEXT + 2):
        with pytest.raises(SchemaError, match=f"There is no version {nowhere}; this pqlite knows 1 to {NEXT + 1}"):
            await schema.migrate(conn, to=nowhere, root=root)


@pytest.mark.parametrize("line", ["-- pqlite: no transactions", "-- pqlite: serves 9999", "-- pqlite: serves"])
async def test_a_line_that_looks_like_a_directive_and_is_none_stops_the_migration(
    conn: asyncpg.Connection, future: Future, line: str
) -> None:
    with pytest.raises(SchemaError, match="which is not a directive"):
        await schema.migrate(conn, root=future(f"{line}\nselect 1;"))


# Functions


async def test_a_migration_with_nothing_to_do_writes_nothing_and_waits_for_nobody(
    conn: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    async with other.transaction():
        await other.execute("select pg_advisory_xact_lock(hashtextextended('pqlite migrate', 0))")
        await other.execute("lock table pqlite.jobs, pqlite.workers in access exclusive mode")
        await conn.execute("set default_transaction_read_only = on; set lock_timeout = '1s'")

        assert await schema.migrate(conn) == []


@pytest.mark.parametrize(
    "act",
    [
        "drop function pqlite.next_death",
        "create or replace function pqlite.draw_ids(p_count int) returns int8[] language sql as 'select null::int8[]'",
        "drop trigger jobs_inserted on pqlite.jobs",
        "update pqlite.migrations set functions = null",
    ],
)
async def test_a_function_or_trigger_that_somebody_changed_is_put_back(conn: asyncpg.Connection, act: str) -> None:
    digest = schema.files.statement("digest", "pqlite")
    before = await conn.fetchval("select count(*) from pg_proc where pronamespace = 'pqlite'::regnamespace")
    await conn.execute(act)
    assert (await schema.plan(conn)).functions

    assert await schema.migrate(conn) == []

    assert not (await schema.plan(conn)).functions
    assert await conn.fetchval("select count(*) from pg_proc where pronamespace = 'pqlite'::regnamespace") == before
    assert await conn.fetchval(digest)
    assert await conn.fetchval("select cardinality(pqlite.draw_ids(2))") == 2


# Without a transaction


@pytest.mark.parametrize("name", ["pqlite", "other"])
async def test_a_statement_that_can_run_in_no_transaction_runs_by_itself(
    conn: asyncpg.Connection, future: Future, name: str
) -> None:
    assert (await schema.migrate(conn, name, root=future(INDEX)))[-1] == NEXT

    assert await conn.fetchval(VALID, f"{name}.jobs_extra")
    assert await schema.version(conn, name) == NEXT


async def test_what_an_interrupted_build_left_behind_is_dropped_before_it_is_repeated(
    conn: asyncpg.Connection, future: Future
) -> None:
    await conn.execute("insert into pqlite.jobs (job_type) values ('t'), ('t')")
    with pytest.raises(asyncpg.UniqueViolationError):
        await conn.execute("create unique index concurrently jobs_extra on pqlite.jobs (job_type)")
    await conn.execute("create index jobs_ready_ccnew1 on pqlite.jobs (id)")
    await conn.execute("update pg_index set indisvalid = false where indexrelid = 'pqlite.jobs_ready_ccnew1'::regclass")
    await conn.execute("create index users_own on pqlite.jobs (id)")
    await conn.execute("update pg_index set indisvalid = false where indexrelid = 'pqlite.users_own'::regclass")
    assert await conn.fetchval(VALID, "pqlite.jobs_extra") is False

    assert await schema.migrate(conn, root=future(INDEX)) == [NEXT]

    assert await conn.fetchval(VALID, "pqlite.jobs_extra") is True
    assert await conn.fetchval(VALID, "pqlite.jobs_ready_ccnew1") is None
    assert await conn.fetchval(VALID, "pqlite.users_own") is False


async def test_an_index_that_somebody_still_builds_is_not_taken_for_a_leftover(
    conn: asyncpg.Connection, other: asyncpg.Connection, future: Future
) -> None:
    await conn.execute("create index jobs_extra on pqlite.jobs (id)")
    await conn.execute("update pg_index set indisvalid = false where indexrelid = 'pqlite.jobs_extra'::regclass")
    root = future(INDEX)
    async with other.transaction():
        await other.execute("lock table pqlite.jobs in share update exclusive mode")

        with pytest.raises(SchemaError, match="nightly report"):
            await schema.migrate(conn, patience=Patience(0.1, tries=2, pause=0.0), root=root)
        assert await conn.fetchval(VALID, "pqlite.jobs_extra") is False

    assert await schema.migrate(conn, root=root) == [NEXT]
    assert await conn.fetchval(VALID, "pqlite.jobs_extra") is True


async def test_an_index_that_somebody_finishes_building_meanwhile_is_kept(
    conn: asyncpg.Connection, other: asyncpg.Connection, watcher: asyncpg.Connection, future: Future
) -> None:
    """It must not be dropped by who saw it unfinished, and waited for the builder's lock."""
    await conn.execute("create index jobs_extra on pqlite.jobs (id)")
    await conn.execute("update pg_index set indisvalid = false where indexrelid = 'pqlite.jobs_extra'::regclass")
    built = await conn.fetchval("select 'pqlite.jobs_extra'::regclass::oid")
    looked = "select query ilike 'rollback%' or wait_event_type = 'Lock' from pg_stat_activity where pid = $1"
    pid = await conn.fetchval("select pg_backend_pid()")
    async with other.transaction():
        await other.execute("lock table pqlite.jobs in share update exclusive mode")
        patience = Patience(lock_timeout=10.0, tries=200, pause=0.05)
        migrating = asyncio.create_task(schema.migrate(conn, patience=patience, root=future(INDEX)))
        await until(lambda: watcher.fetchval(looked, pid), "the migration to meet the index")
        await other.execute("update pg_index set indisvalid = true where indexrelid = 'pqlite.jobs_extra'::regclass")

    assert await migrating == [NEXT]
    assert await conn.fetchval("select 'pqlite.jobs_extra'::regclass::oid") == built


async def test_a_build_that_takes_longer_than_the_statement_timeout_is_not_cancelled(
    conn: asyncpg.Connection, other: asyncpg.Connection, watcher: asyncpg.Connection, future: Future
) -> None:
    await conn.execute("set statement_timeout = '100ms'; set search_path = public")
    longer = (
        "select query ~ 'concurrently' and clock_timestamp() - query_start > '300 ms' from pg_stat_activity "
        "where pid = $1 and state = 'active'"
    )
    async with other.transaction():
        await other.execute("insert into pqlite.jobs (job_type) values ('t')")
        migrating = asyncio.create_task(schema.migrate(conn, root=future(INDEX)))
        await until(lambda: watcher.fetchval(longer, conn.get_server_pid()), "the build to wait for the other")

    assert await migrating == [NEXT]
    assert await conn.fetchval("show statement_timeout") == "100ms"
    assert await conn.fetchval("show search_path") == "public"


async def test_a_build_that_is_cancelled_says_what_to_do_and_leaves_the_session_as_it_was(
    conn: asyncpg.Connection, other: asyncpg.Connection, watcher: asyncpg.Connection, future: Future
) -> None:
    await conn.execute("set statement_timeout = '4321ms'")
    root = future(INDEX)
    pid = conn.get_server_pid()
    builds = "select query ~ 'concurrently' and wait_event_type = 'Lock' from pg_stat_activity where pid = $1"
    async with other.transaction():
        await other.execute("insert into pqlite.jobs (job_type) values ('t')")
        migrating = asyncio.create_task(schema.migrate(conn, root=root))
        await until(lambda: watcher.fetchval(builds, pid), "the build to wait for the other")
        await watcher.execute("select pg_cancel_backend($1)", pid)

        with pytest.raises(SchemaError, match=r"was cancelled: .*connect to PostgreSQL itself"):
            await migrating

    assert await conn.fetchval("show statement_timeout") == "4321ms"
    assert await conn.fetchval(VALID, "pqlite.jobs_extra") is False
    assert await schema.migrate(conn, root=root) == [NEXT]


async def test_five_at_once_apply_every_kind_of_step_once(dsn: str, future: Future) -> None:
    root = future(COLUMN, INDEX, "-- pqlite: serves 1\nalter table pqlite.jobs add column more int;")
    connections = [await asyncpg.connect(dsn) for _ in range(5)]
    try:
        async with asyncio.TaskGroup() as tasks:
            runs = [tasks.create_task(schema.migrate(c, patience=QUICK, root=root)) for c in connections]
        assert sorted(number for run in runs for number in run.result()) == [NEXT, NEXT + 1, NEXT + 2]
        assert await connections[0].fetchval(VALID, "pqlite.jobs_extra")
    finally:
        for connection in connections:
            await connection.close(timeout=5)
