"""A table of pqrun's becomes pqlite's: nothing is lost, its clients go on."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import anyio
import asyncpg
import pytest

from pqlite import ConfigurationError, JobStatus, PgJobStore, SchemaError, Worker, adoption, schema
from pqlite.schema import Patience
from tests.cli.process import COMMAND, environment, pqlite
from tests.schema import pqrun
from tests.schema.conftest import QUICK
from tests.support import ended, until

LONG_AGO = datetime(2024, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
KEPT = (
    "id, job_type, payload, status::text, priority, attempts, max_attempts, run_after, timeout_seconds::float8, "
    "dedupe_key, last_error, finished_at, duration_ms, result, created_at, updated_at"
)


@pytest.fixture
async def old(conn: asyncpg.Connection) -> asyncpg.Connection:
    """A connection to a database with both, and jobs of every kind in pqrun's table but RUNNING ones."""
    await pqrun.install(conn)
    await conn.execute(
        """
        insert into jobs (id, job_type, payload, status, priority, attempts, max_attempts, run_after, timeout_seconds,
                          locked_at, locked_by, dedupe_key, last_error, finished_at, duration_ms, result, created_at,
                          updated_at) values
          (3, 't', '{"n": 3}', 'READY', 7, 2, 9, $1, 30, null, null, 'k3', 'once', null, 12, null, $1, $1),
          (4, 't', '{"n": 4}', 'READY', 0, 0, 5, $1, null, null, null, null, null, null, null, null, $1, $1),
          (5, 't', '{}', 'DONE', 0, 1, 5, $1, null, null, null, 'k3', null, $1, 250, '{"a": [1]}', $1, $1),
          (8, 'other', '{}', 'FAILED', -2, 5, 5, $1, null, null, null, null, 'boom', $1, 5, null, $1, $1),
          (9, 't', '{}', 'CANCELLED', 0, 1, 5, $1, null, $1, 'left by cancel', 'k9', null, $1, null, null, $1, $1)
        """.replace("$1", f"'{LONG_AGO.isoformat()}'")
    )
    await conn.execute("select setval('jobs_id_seq', 20)")
    return conn


@pytest.fixture
async def producer(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def running(conn: asyncpg.Connection, id_: int, ago: str, attempts: int = 1) -> None:
    await conn.execute(
        "insert into jobs (id, job_type, status, attempts, max_attempts, locked_at, locked_by, dedupe_key) "
        f"values ({id_}, 't', 'RUNNING', {attempts}, 3, now() - interval '{ago}', 'host-77', 'run{id_}')"
    )


async def enqueue(conn: asyncpg.Connection, key: str | None = None) -> int:
    return await conn.fetchval(pqrun.ENQUEUE, "t", '{"n": 0}', key, LONG_AGO, 0, 5, 60)


# What moves


async def test_every_job_keeps_what_pqrun_knew_of_it(old: asyncpg.Connection) -> None:
    before = await old.fetch(f"select {KEPT} from jobs order by id")

    assert await adoption.adopt(old) == 5

    assert await old.fetch(f"select {KEPT} from pqlite.jobs order by id") == before
    assert await old.fetch(f"select {KEPT} from jobs order by id") == before
    assert await old.fetchval("select to_regclass('public.jobs_pqrun')") is None
    assert await old.fetchval("select errors -> 0 ->> 'error' from pqlite.jobs where id = 8") == "boom"
    assert not (await schema.census(old)).foreign


async def test_a_worker_runs_what_was_waiting(old: asyncpg.Connection, dsn: str) -> None:
    await adoption.adopt(old)

    store = PgJobStore(dsn=dsn)
    async with Worker(store=store, handlers={"t": lambda ctx: {"ran": ctx.job.payload}}, retain_done=None):
        jobs = [await ended(store, id_) for id_ in (3, 4)]

    assert [(job.status, job.result) for job in jobs] == [(JobStatus.DONE, {"ran": {"n": n}}) for n in (3, 4)]
    assert [job.attempts for job in jobs] == [3, 1]


async def test_jobs_that_ran_are_ready_again_as_suspects_or_failed_if_that_was_their_last_attempt(
    old: asyncpg.Connection, dsn: str
) -> None:
    await running(old, 11, ago="1 hour")
    await running(old, 12, ago="1 hour", attempts=3)

    await adoption.adopt(old)

    async with PgJobStore(dsn=dsn) as store:
        again, spent = await store.get(11), await store.get(12)
        assert (again.status, again.attempts, again.crashes, again.dedupe_key) == (JobStatus.READY, 1, 1, "run11")
        assert (spent.status, spent.attempts, spent.last_error) == (JobStatus.FAILED, 3, "worker died (host-77)")
        assert spent.finished_at is not None
        async with Worker(store=store, handlers={"t": lambda ctx: None}):
            assert (await ended(store, 11)).status is JobStatus.DONE


async def test_columns_that_pqrun_does_not_know_go_into_the_metadata(old: asyncpg.Connection) -> None:
    await old.execute("alter table jobs add column tenant text default 'acme', add column seen timestamptz")

    assert (await adoption.survey(old)).columns == ["tenant", "seen"]
    await adoption.adopt(old)

    found = await old.fetch("select distinct metadata::text from pqlite.jobs")
    assert [tuple(row) for row in found] == [('{"seen": null, "tenant": "acme"}',)]


async def test_numbers_that_pqlite_cannot_hold_become_the_nearest_that_it_can(old: asyncpg.Connection) -> None:
    await old.execute("update jobs set max_attempts = 0, timeout_seconds = 0, priority = -2147483648 where id = 4")

    await adoption.adopt(old)

    row = await old.fetchrow("select max_attempts, timeout_seconds, priority from pqlite.jobs where id = 4")
    assert tuple(row) == (1, None, -2147483647)


@pytest.mark.parametrize("table", ["public.work", "app.jobs", "app.order"])
async def test_another_table_moves_into_another_schema(conn: asyncpg.Connection, table: str) -> None:
    quoted = table.replace("order", '"order"')
    await pqrun.install(conn, quoted)
    await conn.execute(f"insert into {quoted} (job_type) values ('t'), ('t')")
    await schema.migrate(conn, "other")

    assert await adoption.adopt(conn, table, "other") == 2

    await conn.execute(f"insert into {quoted} (job_type) values ('t')")
    first, second, new = [id_ for (id_,) in await conn.fetch("select id from other.jobs order by id")]
    assert (first, second) == (1, 2)
    assert new > 2
    assert await conn.fetchval("select count(*) from pqlite.jobs") == 0


# pqrun's clients


async def test_a_new_job_gets_an_id_beyond_the_old_ones_and_is_pqlites_at_once(
    old: asyncpg.Connection, producer: asyncpg.Connection
) -> None:
    await adoption.adopt(old)

    first, second = await enqueue(producer), await enqueue(producer)

    assert 9 < first < second
    row = await old.fetchrow("select status, timeout_seconds, run_after, claims from pqlite.jobs where id = $1", first)
    assert tuple(row) == ("READY", 60.0, LONG_AGO, 0)


async def test_pqruns_statements_deduplicate_against_jobs_that_moved_and_among_themselves(
    old: asyncpg.Connection, producer: asyncpg.Connection
) -> None:
    await adoption.adopt(old)

    assert await enqueue(producer, "k3") == 3
    new = await enqueue(producer, "k9")
    assert new > 9
    assert await enqueue(producer, "k9") == new
    assert [await producer.execute(pqrun.BATCH) for _ in range(2)] == ["INSERT 0 3", "INSERT 0 0"]


async def test_a_statement_prepared_before_goes_on_after(old: asyncpg.Connection, producer: asyncpg.Connection) -> None:
    prepared = await producer.prepare(pqrun.ENQUEUE)
    arguments = ("t", "{}", "again", LONG_AGO, 0, 5, 60)
    before = await prepared.fetchval(*arguments)

    await adoption.adopt(old)

    assert await prepared.fetchval(*arguments) == before


async def test_triggers_of_the_users_reports_and_clean_up_go_on(old: asyncpg.Connection) -> None:
    await old.execute(
        """
        create table conversations (id int);
        create function enqueue_summary() returns trigger language plpgsql as $$ begin
          insert into jobs (job_type, payload, dedupe_key)
          values ('summarize', jsonb_build_object('id', new.id), 'conv:' || new.id)
          on conflict (dedupe_key) where dedupe_key is not null and status in ('READY', 'RUNNING') do nothing;
          return new;
        end $$;
        create trigger summary after insert on conversations for each row execute function enqueue_summary();
        insert into conversations values (1);
        """
    )
    await adoption.adopt(old)

    await old.execute("insert into conversations values (1), (2)")

    assert await old.fetchval(
        "select array_agg(payload ->> 'id' order by id) from jobs where job_type = 'summarize'"
    ) == [
        "1",
        "2",
    ]
    assert await old.fetchval("select count(*) from jobs where status = 'READY'") == 4
    deleted = await old.execute(
        "delete from jobs where status in ('DONE', 'FAILED', 'CANCELLED') and finished_at < now() - interval '7 days'"
    )
    assert deleted == "DELETE 3"


async def test_roles_keep_the_rights_they_had_on_the_table(old: asyncpg.Connection) -> None:
    role = f"producer_{await old.fetchval('select pg_backend_pid()')}"
    await old.execute(
        f"create role {role}; grant insert, select, update on jobs to {role}; grant usage on schema public to {role}"
    )
    try:
        await adoption.adopt(old)
        await old.execute(f"set role {role}")
        assert await enqueue(old) > 9
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await old.execute("delete from jobs")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await old.execute("select from pqlite.jobs")
        await old.execute("reset role")
    finally:
        await old.execute(f"reset role; drop owned by {role}; drop role {role}")


async def test_producers_that_never_stop_lose_no_job_and_see_no_error(
    old: asyncpg.Connection, dsn: str, producer: asyncpg.Connection
) -> None:
    await old.execute("insert into jobs (job_type, dedupe_key) select 't', 'bulk' || n from generate_series(1, 500) n")
    await old.execute("insert into jobs (job_type) select 't' from generate_series(1, 2000)")
    rival = await asyncpg.connect(dsn)
    ids: list[int] = []
    working = True

    async def produce(conn: asyncpg.Connection, name: str) -> None:
        while working:
            number = len(ids)
            ids.append(await enqueue(conn, f"{name}{number}" if number % 2 else None))
            # Held by a job that moves, at some moment of this.
            assert await enqueue(conn, f"bulk{number % 500 + 1}") <= 600

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(produce(producer, "a"))
            tasks.create_task(produce(rival, "b"))
            await until(lambda: len(ids) > 20)
            await adoption.adopt(old, chunk=100, patience=QUICK)
            await until(lambda: len(ids) > 200)
            working = False
    finally:
        await rival.close(timeout=5)

    assert len(set(ids)) == len(ids)
    stored = {id_ for (id_,) in await old.fetch("select id from pqlite.jobs")}
    assert set(ids) <= stored
    assert len(stored) == len(ids) + 2505


async def test_nobody_draws_an_id_between_the_look_at_the_last_one_and_the_setting_of_the_next(
    old: asyncpg.Connection, producer: asyncpg.Connection, dsn: str
) -> None:
    """Or the next id could be set back, and be given twice."""
    watcher = await asyncpg.connect(dsn)
    # Looking at it lasts until the watcher lets go.
    await old.execute("create view slow as select j.id from jobs j, (select pg_advisory_xact_lock_shared(77)) l")

    async def prepare() -> int:
        async with old.transaction():
            return await adoption.pqrun._set_ids(old, "public.slow", "pqlite")

    waiting = "select count(*) = {} from pg_locks where not granted"
    try:
        await watcher.execute("select pg_advisory_lock(77)")
        preparing = asyncio.create_task(prepare())
        await until(lambda: watcher.fetchval(waiting.format(1)), "the look to wait")
        drawing = asyncio.create_task(producer.fetchval("select pqlite.draw_ids(20000)"))
        await until(lambda: watcher.fetchval(waiting.format(2)), "who draws to wait")
        await watcher.execute("select pg_advisory_unlock(77)")

        assert min(await drawing) == await preparing + 1
    finally:
        await watcher.close(timeout=5)


async def test_a_next_id_that_is_beyond_already_stays(old: asyncpg.Connection) -> None:
    await old.execute("select setval('pqlite.jobs_id_seq', 50000)")

    assert await adoption.adopt(old) == 5

    assert await enqueue(old) == 50001


async def test_an_id_that_was_drawn_and_not_yet_used_is_waited_for(
    old: asyncpg.Connection, producer: asyncpg.Connection, dsn: str
) -> None:
    """Otherwise pqrun's sequence could give it to another job before the switch."""
    pid = await old.fetchval("select pg_backend_pid()")
    watcher = await asyncpg.connect(dsn)
    drawing = producer.transaction()
    await drawing.start()
    try:
        await producer.execute("select setval('pqlite.jobs_id_seq', 20)")
        drawn = await producer.fetchval("select nextval('pqlite.jobs_id_seq')")
        adopting = asyncio.create_task(adoption.adopt(old, patience=QUICK))
        waits = "select exists (select from pg_locks where pid = $1 and not granted)"
        await until(lambda: watcher.fetchval(waits, pid), "adopt to wait")
        await watcher.execute("insert into jobs (job_type) values ('t')")  # gets the same id
        await producer.execute("insert into pqlite.jobs (id, job_type) values ($1, 't')", drawn)
        await drawing.commit()

        with pytest.raises(SchemaError, match="have the same ids"):
            await adopting
    finally:
        await watcher.close(timeout=5)


async def test_jobs_that_come_with_ids_beyond_those_set_aside_begin_the_switch_again(
    old: asyncpg.Connection, producer: asyncpg.Connection, dsn: str
) -> None:
    pid = await old.fetchval("select pg_backend_pid()")
    watcher = await asyncpg.connect(dsn)
    writing = producer.transaction()
    await writing.start()
    try:
        await producer.execute("insert into jobs (job_type) select 't' from generate_series(1, 20000)")
        adopting = asyncio.create_task(adoption.adopt(old, patience=QUICK))
        waits = "select exists (select from pg_locks where pid = $1 and not granted)"
        await until(lambda: watcher.fetchval(waits, pid), "the switch to wait")
        await writing.commit()

        assert await adopting == 20005
        assert await enqueue(producer) > 20020
    finally:
        await watcher.close(timeout=5)


# Interrupted


async def test_it_goes_on_where_it_was_interrupted_and_then_finds_nothing_to_do(
    old: asyncpg.Connection, producer: asyncpg.Connection
) -> None:
    class Killed(Exception):
        pass

    def stop(moved: int) -> None:
        if moved >= 2:
            raise Killed

    before = await old.fetch(f"select {KEPT} from jobs order by id")
    with pytest.raises(Killed):
        await adoption.adopt(old, chunk=1, progress=stop)
    assert (await adoption.survey(old)).state == "moving"
    assert await old.fetchval("select count(*) from pqlite.jobs") == 2
    assert await enqueue(producer, "k3") == 3

    assert await adoption.adopt(old, chunk=1) == 3
    assert (await adoption.survey(old)).state == "adopted"
    assert await adoption.adopt(old) == 0

    now = await old.fetch(f"select {KEPT} from pqlite.jobs order by id")
    assert [row[:-1] for row in map(tuple, now)] == [row[:-1] for row in map(tuple, before)]


async def test_an_interrupted_switch_leaves_the_old_table_as_it_was(
    old: asyncpg.Connection, dsn: str, producer: asyncpg.Connection
) -> None:
    pid = await old.fetchval("select pg_backend_pid()")
    reading = producer.transaction()
    await reading.start()
    await producer.execute("select from jobs")
    adopting = asyncio.create_task(adoption.adopt(old, patience=QUICK))
    killer = await asyncpg.connect(dsn)
    try:
        await until(lambda: killer.fetchval("select exists (select from pg_locks where pid = $1 and not granted)", pid))
        await killer.execute(f"select pg_terminate_backend({pid})")
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await adopting
        await reading.rollback()

        assert await producer.fetchval("select count(*) from jobs") == 5
        assert await adoption.adopt(killer) == 5
    finally:
        await killer.close(timeout=5)


async def test_two_at_once_move_every_job_once(old: asyncpg.Connection, producer: asyncpg.Connection) -> None:
    await old.execute("insert into jobs (job_type) select 't' from generate_series(1, 300)")

    moved = await asyncio.gather(*(adoption.adopt(c, chunk=20, patience=QUICK) for c in (old, producer)))

    assert sum(moved) == 305
    assert (await adoption.survey(old)).state == "adopted"
    assert await old.fetchval("select count(*) from pqlite.jobs") == 305


async def test_it_survives_being_killed(old: asyncpg.Connection, dsn: str) -> None:
    await old.execute("insert into jobs (job_type) select 't' from generate_series(1, 40000)")
    dropping = "select not exists (select from pg_stat_activity where query ~ 'pqrun_jobs' and pid <> pg_backend_pid())"

    command = [*COMMAND, "adopt", "--dsn", dsn, "--yes"]
    async with await anyio.open_process(command, env=environment(), stdin=None, stdout=None, stderr=None) as process:
        await until(lambda: old.fetchval("select count(*) > 0 from pqlite.jobs"), "the first jobs to move")
        process.kill()
    await until(lambda: old.fetchval(dropping), "its session to end")
    assert 0 < await old.fetchval("select count(*) from pqlite.jobs") < 40005

    assert await adoption.adopt(old) > 0
    assert await old.fetchval("select count(*) from pqlite.jobs") == 40005


# In the way


@pytest.mark.parametrize(
    ("act", "says"),
    [
        ("create table logs (job bigint references jobs)", "logs_job_fkey of public.logs references it"),
        ("create view open as select * from jobs", "public.open reads it"),
        (
            "create function f() returns setof jobs language sql as 'select * from jobs'",
            r"row type is used by function public.f",
        ),
        ("create table child () inherits (jobs)", "it has child tables"),
        ("alter table jobs enable row level security", "it has row level security"),
        ("update jobs set job_type = '' where id = 4", "jobs have a job_type of no or more than 200 bytes: ids 4"),
        ("update jobs set dedupe_key = '' where id = 4", "an active dedupe_key of no or more than 1024 bytes: ids 4"),
        ("update jobs set run_after = 'infinity' where id = 5", "run_after or created_at before 1900 .*: ids 5"),
        ("insert into pqlite.jobs (id, job_type) values (5, 't')", "have the same ids"),
        ("insert into pqlite.jobs (id, job_type, dedupe_key) values (50, 't', 'k3')", r"same dedupe_key; .*\{3\}"),
    ],
)
async def test_what_cannot_be_kept_stops_it_before_anything_changes(
    old: asyncpg.Connection, act: str, says: str
) -> None:
    await old.execute(act)

    for force in (False, True):
        with pytest.raises(SchemaError, match=f"public.jobs cannot be adopted: .*{says}"):
            await adoption.adopt(old, force=force)

    assert (await adoption.survey(old)).state == "pqrun"
    assert await old.fetchval("select count(*) from only jobs") == 5


async def test_a_job_that_was_started_just_now_stops_it_unless_forced(old: asyncpg.Connection) -> None:
    await running(old, 11, ago="1 minute")

    with pytest.raises(SchemaError, match=r"minutes: 1, held by host-77; stop pqrun's workers first \(--force"):
        await adoption.adopt(old)

    assert await adoption.adopt(old, force=True) == 6


async def test_triggers_that_would_be_lost_stop_it_unless_forced(old: asyncpg.Connection) -> None:
    await old.execute(
        "create function f() returns trigger language plpgsql as 'begin return new; end'; "
        "create trigger audit after insert on jobs for each row execute function f()"
    )

    with pytest.raises(SchemaError, match="its triggers would fire no more: audit"):
        await adoption.adopt(old)

    assert await adoption.adopt(old, force=True) == 5


async def test_triggers_on_the_old_table_do_not_take_a_job_that_moves_for_one_that_is_deleted(
    old: asyncpg.Connection,
) -> None:
    await old.execute(
        "create table deleted (id bigint); create function note() returns trigger language plpgsql as "
        "'begin insert into deleted values (old.id); return old; end'; "
        "create trigger audit after delete on jobs for each row execute function note()"
    )

    assert await adoption.adopt(old, force=True) == 5

    assert await old.fetchval("select count(*) from deleted") == 0


@pytest.mark.parametrize("analyzed", [False, True])
async def test_what_is_asked_while_the_table_is_locked_does_not_read_its_history(
    old: asyncpg.Connection, analyzed: bool
) -> None:
    await old.execute("insert into jobs (job_type, status) select 't', 'DONE' from generate_series(1, 20000)")
    await old.execute("insert into pqlite.jobs (id, job_type) select n + 1000000, 't' from generate_series(1, 20000) n")
    if analyzed:
        await old.execute("vacuum analyze jobs, pqlite.jobs")
    for name in ("obstacles", "last"):
        asked = adoption.pqrun._sql(name, "public.jobs", "pqlite")
        await old.fetch(asked)  # so that the catalog has been read

        [plan] = json.loads(await old.fetchval(f"explain (analyze, buffers, format json) {asked}"))

        assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 100, name


async def test_what_is_no_table_of_pqruns_is_left_alone(conn: asyncpg.Connection) -> None:
    await conn.execute("create table jobs (id int, payload jsonb); create view list as select 1 as id")

    for table, says in (
        ("public.jobs", "public.jobs is not a table of pqrun: it has no column attempts, created_at, "),
        ("public.list", "public.list is not a table of pqrun"),
        ("public.nothing", "There is no table public.nothing."),
    ):
        with pytest.raises(SchemaError, match=says):
            await adoption.adopt(conn, table)
    for name in ("jobs", "public.jobs; drop table jobs", 'public."jobs"', "pqlite.jobs", "a.b.c"):
        with pytest.raises(ConfigurationError):
            await adoption.adopt(conn, name)


async def test_it_gives_up_when_somebody_keeps_the_table_and_says_who(old: asyncpg.Connection, dsn: str) -> None:
    other = await asyncpg.connect(dsn, server_settings={"application_name": "nightly report"})
    try:
        async with other.transaction():
            await other.execute("select from jobs")
            with pytest.raises(SchemaError, match=r"Replacing public.jobs by a view .*nightly report"):
                await adoption.adopt(old, patience=Patience(0.1, tries=2, pause=0.0))
    finally:
        await other.close(timeout=5)
    assert await old.fetchval("select count(*) from jobs") == 5


async def test_without_pqlites_schema_it_says_how_to_make_it(empty_dsn: str) -> None:
    conn = await asyncpg.connect(empty_dsn)
    try:
        await pqrun.install(conn)
        with pytest.raises(SchemaError, match="run 'pqlite migrate'"):
            await adoption.adopt(conn)
    finally:
        await conn.close(timeout=5)


async def test_an_adopted_table_keeps_the_schema_from_being_dropped(old: asyncpg.Connection) -> None:
    await adoption.adopt(old)

    with pytest.raises(SchemaError, match=r"depend on the schema 'pqlite': view public\.jobs depends"):
        await schema.uninstall(old)


async def test_a_switch_that_meets_a_view_in_the_tables_place_does_nothing(old: asyncpg.Connection) -> None:
    """As for a process that looked, and then waited while another adopted the table."""
    await adoption.adopt(old)

    assert await adoption.pqrun._switch(old, "public.jobs", "pqlite", False, QUICK) == 0
    assert timedelta(0) < datetime.now(UTC) - await old.fetchval("select min(created_at) from jobs")


# The command


async def test_the_command_says_what_it_would_do_and_does_it_only_when_told(old: asyncpg.Connection, dsn: str) -> None:
    asked = await pqlite("adopt", "--dsn", dsn)
    assert (asked.status, asked.err) == (0, "")
    assert asked.out == (
        "Would rename public.jobs, and put a view of the schema 'pqlite' in its place.\n"
        "Jobs to move: 1 CANCELLED, 1 DONE, 1 FAILED, 2 READY.\n"
        "Workers delete finished jobs in time: see Worker(retain_done=..., retain_failed=...).\n"
        "Nothing was changed; say --yes to do it.\n"
    )
    assert (await adoption.survey(old)).state == "pqrun"

    done = await pqlite("adopt", "--dsn", dsn, "--yes")
    again = await pqlite("adopt", "--dsn", dsn, "--yes")
    assert (done.status, done.out) == (0, "Adopted public.jobs: 5 jobs are in the schema 'pqlite'.\n")
    assert (again.status, again.out) == (0, "Nothing to do: public.jobs has been adopted.\n")


async def test_the_command_ends_with_what_stands_in_the_way(old: asyncpg.Connection, dsn: str) -> None:
    await running(old, 11, ago="1 minute")

    asked = await pqlite("adopt", "--dsn", dsn)
    done = await pqlite("adopt", "--dsn", dsn, "--yes")

    for ran in (asked, done):
        assert ran.status == 1
        assert ran.err.startswith("public.jobs cannot be adopted: jobs are RUNNING for less than 20 minutes: 1")
        assert len(ran.err.splitlines()) == 1
    assert (await adoption.survey(old)).state == "pqrun"
