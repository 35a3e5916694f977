"""What each role of ddl/roles.sql may do, done by it, and what it may not, tried by it."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import asyncpg
import pytest

from pqlite import JobContext, JobStatus, NewJob, PgJobStore, Worker, adoption, schema
from pqlite.events import Event
from tests.schema import pqrun
from tests.sql.installation import PASSWORD, ROLES, Installation, installed
from tests.sql.psql import run_psql
from tests.support import ended

NAMES = [f"pq{os.getpid()}", "pqlite"]


@pytest.fixture(params=NAMES, ids=["another schema", "pqlite"])
async def installation(empty_dsn: str, request: pytest.FixtureRequest) -> AsyncIterator[Installation]:
    await skip_unless_roles_can_be_made(empty_dsn, request.param)
    async with installed(empty_dsn, request.param) as made:
        yield made


async def skip_unless_roles_can_be_made(dsn: str, name: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        if not await connection.fetchval("select rolsuper from pg_roles where rolname = current_user"):
            pytest.skip("the test server's user is no superuser, so it cannot make roles and drop them again")
        if await connection.fetchval("select true from pg_roles where rolname = $1", f"{name}_worker"):
            pytest.skip(f"the test server has a role {name}_worker already, which is not for tests to drop")
    finally:
        await connection.close()


# Producer


async def test_a_producer_enqueues_by_every_way_of_the_store(installation: Installation) -> None:
    async with PgJobStore(dsn=installation.dsn_of("producer"), schema=installation.schema) as store:
        alone = await store.enqueue("t", {"n": 1})
        keyed = await store.enqueue("t", dedupe_key="k")
        assert await store.enqueue("t", dedupe_key="k") == keyed
        async with store.transaction() as conn:
            inside = await store.enqueue("t", conn=conn)
        together = await asyncio.gather(*(store.enqueue("t", {"n": n}) for n in range(50)))
        verdicts = await store.enqueue_many(
            [NewJob(job_type="t", dedupe_key="k"), NewJob(job_type="t"), NewJob(job_type="t", dedupe_key="l")]
        )

        assert [verdict.inserted for verdict in verdicts] == [False, True, True]
        ids = {alone, keyed, inside, *together, *(verdict.id for verdict in verdicts)}
        assert len(ids) == 55
        assert await store.cancel(alone) is JobStatus.CANCELLED
        assert await store.retry(alone) is JobStatus.READY
        assert (await store.get(alone)).payload == {"n": 1}


async def test_a_producer_makes_an_outbox_of_a_table_of_its_own(installation: Installation) -> None:
    async with installation.connected("producer") as conn:
        await conn.execute(
            installation.sql(
                """
                create temp table orders (id int);
                create trigger changed after insert on orders for each row
                  execute function pqlite.enqueue_on_change('order_changed');
                insert into orders values (7)
                """
            )
        )
        found = "select payload -> 'new' ->> 'id' from pqlite.job(1)"
        assert await conn.fetchval(installation.sql(found)) == "7"


# Worker


async def test_a_worker_claims_completes_retries_and_settles(installation: Installation) -> None:
    async def complete(ctx: JobContext) -> None:
        async with ctx.complete():
            pass

    async def fail(ctx: JobContext) -> None:
        raise ValueError("no luck")

    events: list[Event] = []
    async with PgJobStore(dsn=installation.dsn_of("worker"), schema=installation.schema) as store:
        handlers = {"return": lambda ctx: 7, "complete": complete, "fail": fail}
        async with Worker(store=store, handlers=handlers, observers=[events.append]):
            ids = [await store.enqueue(job_type, max_attempts=1, dedupe_key=job_type) for job_type in handlers]
            jobs = [await ended(store, job_id) for job_id in ids]

        assert [job.status for job in jobs] == [JobStatus.DONE, JobStatus.DONE, JobStatus.FAILED]
        assert jobs[0].result == 7
        async with store.connection() as conn:
            assert await conn.fetchval(installation.sql("select count(*) from pqlite.workers")) == 0


async def test_a_worker_reaps_and_prunes(installation: Installation) -> None:
    async with PgJobStore(dsn=installation.dsn_of("worker"), schema=installation.schema) as store:
        for _ in range(2):
            await store.enqueue("t")
        engine = store.engine("test")
        try:
            await engine.register("dead", "dead", None, timedelta(seconds=20), {})
            await engine.register("w", "w", None, timedelta(seconds=20), {})
            abandoned = await store.pickup("by hand")
            async with store.connection() as conn:
                lane = "1, false, null, null, '{default}', '{t}', '{0}', '{-infinity}', '{0}'"
                await conn.execute(installation.sql(f"select pqlite.claim('dead', {lane})"))
                await conn.execute(installation.sql("update pqlite.workers set dead_at = now() where id = 'dead'"))
                await conn.execute(installation.sql("update pqlite.jobs set locked_at = locked_at - interval '1 hour'"))

            assert [job.locked_by for job in await engine.reap("w")] == ["dead"]
            assert abandoned is not None
            assert await store.reap_stale() == 1
            await store.cancel(abandoned.id)
            assert await store.prune(timedelta(0), timedelta(0)) == (None, 1)
            assert await engine.unregister("w")
        finally:
            await engine.link.close()


# Migrator


async def test_a_migrator_owns_everything_and_migrates(installation: Installation) -> None:
    owned = """
        select o.name, pg_get_userbyid(o.owner) from (
          select nspname::text, nspowner from pg_namespace where nspname = $1
          union all select relname, relowner from pg_class where relnamespace = to_regnamespace($1) and relkind <> 't'
          union all select proname, proowner from pg_proc where pronamespace = to_regnamespace($1)) o (name, owner)
        where pg_get_userbyid(o.owner) <> $1 || '_migrator'
    """
    async with installation.connected() as admin:
        assert await admin.fetch(owned, installation.schema) == []

        async with installation.connected("migrator") as conn:
            await conn.execute(installation.sql("drop function pqlite.next_death; drop view pqlite.stuck_jobs"))
            assert await schema.migrate(conn, installation.schema) == []
        assert await admin.fetch(owned, installation.schema) != []

        await run_psql(installation.dsn, schema.roles(installation.schema))
        assert await admin.fetch(owned, installation.schema) == []


async def test_a_migrator_that_may_create_a_schema_builds_it(installation: Installation) -> None:
    async with installation.connected() as admin:
        database = await admin.fetchval("select current_database()")
        await admin.execute(installation.sql(f'grant create on database "{database}" to pqlite_migrator'))
    async with installation.connected("migrator") as conn:
        await conn.execute(f'drop schema "{installation.schema}" cascade')
        assert await schema.migrate(conn, installation.schema) == [number for number, _, _ in schema.migrations()]

    await run_psql(installation.dsn, schema.roles(installation.schema))

    async with PgJobStore(dsn=installation.dsn_of("producer"), schema=installation.schema) as store:
        assert await store.enqueue("t") == 1


@pytest.mark.parametrize("role", ["worker", "producer", "viewer"])
async def test_nobody_else_migrates(installation: Installation, role: str) -> None:
    async with installation.connected("migrator") as conn:
        await conn.execute(schema.render("update pqlite.migrations set functions = null", installation.schema))
    async with installation.connected(role) as conn:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await schema.migrate(conn, installation.schema)


@pytest.fixture
async def owners_dsn(empty_dsn: str) -> AsyncIterator[str]:
    """The address of an empty database for a login that may make schemas in it, and owns what it makes."""
    await skip_unless_roles_can_be_made(empty_dsn, "pqlite")
    owner, address = f"pq{os.getpid()}_owner", urlsplit(empty_dsn)
    connection = await asyncpg.connect(empty_dsn)
    try:
        await connection.execute(f"create role {owner} login password '{PASSWORD}'")
        database = address.path.removeprefix("/")
        await connection.execute(f'grant create on database "{database}" to {owner}')
        await connection.execute(f"create schema app authorization {owner}")
        yield address._replace(netloc=f"{owner}:{PASSWORD}@{address.netloc.rpartition('@')[2]}").geturl()
        await connection.execute(f"drop owned by {owner} cascade; drop role {owner}")
    finally:
        await connection.close(timeout=5)


async def test_the_view_that_adopting_left_goes_on_when_the_jobs_change_their_owner(
    empty_dsn: str, owners_dsn: str
) -> None:
    owner = await asyncpg.connect(owners_dsn)
    try:
        await schema.migrate(owner)
        await pqrun.install(owner, "app.jobs")
        await owner.execute("create view app.waiting as select id from pqlite.jobs where status = 'READY'")
        await adoption.adopt(owner, "app.jobs")
        async with installed(empty_dsn, "pqlite") as installation, installation.connected() as admin:
            await admin.execute(
                "grant usage on schema app to pqlite_producer; grant insert on app.jobs to pqlite_producer"
            )
            async with installation.connected("producer") as producer:
                await producer.execute("insert into app.jobs (job_type) values ('by another')")
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await producer.execute("insert into pqlite.jobs (job_type) values ('directly')")

            await owner.execute("set search_path = app")
            await owner.fetchval(pqrun.ENQUEUE, "t", "{}", "k", datetime.now(UTC), 0, 5, None)
            await owner.execute("delete from jobs where job_type = 'by another'")
            assert len(await owner.fetch("select from waiting")) == 1
            assert not await owner.fetchval("select pg_has_role('pqlite_migrator', 'member')")
            await admin.execute("drop schema app cascade")
    finally:
        await owner.close(timeout=5)


async def test_an_owner_without_views_on_the_jobs_keeps_no_right(empty_dsn: str, owners_dsn: str) -> None:
    owner = await asyncpg.connect(owners_dsn)
    try:
        await schema.migrate(owner)
        async with installed(empty_dsn, "pqlite"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await owner.execute("select from pqlite.jobs")
    finally:
        await owner.close(timeout=5)


# Viewer


async def test_a_viewer_reads_the_views(installation: Installation) -> None:
    async with PgJobStore(dsn=installation.dsn, schema=installation.schema) as store:
        await store.enqueue("t")
    async with installation.connected("viewer") as conn:
        [stats] = await conn.fetch(installation.sql("select job_type, due from pqlite.queue_stats"))
        assert tuple(stats) == ("t", 1)
        assert await conn.fetch(installation.sql("select * from pqlite.stuck_jobs")) == []


# What is refused

ENQUEUES = [
    "select pqlite.enqueue('t')",
    "select pqlite.enqueue_many('{t}')",
    "select pqlite.enqueue_keyless('{t}')",
    "create temp table t (); "
    "create trigger t after insert on t for each row execute function pqlite.enqueue_on_change()",
]
ACTS = ["select pqlite.cancel(1)", "select pqlite.retry(1)", "select pqlite.job(1)", "select pqlite.ended('{1}')"]
READS = [f"select 1 from pqlite.{table}" for table in ("jobs", "workers", "migrations", "wake_until")]
WRITES = [
    "insert into pqlite.jobs (job_type) values ('t')",
    "update pqlite.jobs set priority = 1",
    "delete from pqlite.jobs",
    "delete from pqlite.workers",
    "select nextval('pqlite.jobs_id_seq')",
    "select setval('pqlite.wake_until', 1)",
]
WORKS = [
    "select pqlite.claim('w', 1, true, null, null, '{}', '{}', '{}', '{}', '{}')",
    "select pqlite.settle('w', '{1}', '{1}', '{DONE}', '{}', '{}', '{}', '{}')",
    "select pqlite.pickup('w', null, null)",
    "select pqlite.register('w', 'w', null, '1 s', '{}')",
    "select pqlite.renew('w', '1 s', null)",
    "select pqlite.complete('w', 1, 1, null)",
    "select pqlite.reap('w')",
    "select pqlite.prune('1 s', '1 s', null, 1)",
    "select pqlite.arm(1000)",
    "select pqlite.wake()",
    "select pqlite.draw_ids(1)",
]
VIEWS = ["select 1 from pqlite.queue_stats", "select 1 from pqlite.stuck_jobs"]
CHANGES = [
    "drop table pqlite.jobs",
    "truncate pqlite.jobs",
    "alter table pqlite.jobs add column mine int",
    "create table pqlite.mine ()",
    "create trigger t after insert on pqlite.jobs execute function pqlite.jobs_inserted()",
    "create or replace function pqlite.job(bigint) returns int language sql as 'select 1'",
    "call pqlite.replace_view('queue_stats', 'select 1 as mine')",
]
REFUSED = {
    "worker": [*VIEWS, *CHANGES, "insert into pqlite.migrations (version, name) values (9, 'x')"],
    "producer": [*READS, *WRITES, *WORKS, *VIEWS, *CHANGES],
    "viewer": [*ENQUEUES, *ACTS, *READS, *WRITES, *WORKS, *CHANGES],
}


@pytest.mark.parametrize("role", REFUSED)
async def test_a_role_is_refused_what_is_not_its_work(installation: Installation, role: str) -> None:
    allowed = []
    async with installation.connected(role) as conn:
        for statement in REFUSED[role]:
            with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
                await conn.execute(installation.sql(statement))
                allowed.append(statement)
    assert allowed == []


async def test_a_stranger_may_call_no_function_at_all_even_if_it_may_use_the_schema(installation: Installation) -> None:
    callable_by_public = """
        select oid::regprocedure::text from pg_proc
        where pronamespace = to_regnamespace($1) and has_function_privilege('public', oid, 'execute')
    """
    async with installation.connected() as conn:
        assert await conn.fetch(callable_by_public, installation.schema) == []


# The script


async def privileges(installation: Installation) -> list[tuple[str, ...]]:
    async with installation.connected() as conn:
        rows = await conn.fetch(
            """
            select o.name, x.grantee::regrole::text, x.privilege_type from (
              select relname::text, relacl from pg_class where relnamespace = to_regnamespace($1)
              union all select oid::regprocedure::text, proacl from pg_proc where pronamespace = to_regnamespace($1)
              union all select nspname, nspacl from pg_namespace where nspname = $1) o (name, acl),
              aclexplode(o.acl) x
            order by 1, 2, 3
            """,
            installation.schema,
        )
        return [tuple(row) for row in rows]


async def test_the_script_restores_its_grants_when_it_is_repeated(installation: Installation) -> None:
    before = await privileges(installation)
    async with installation.connected() as conn:
        await conn.execute(installation.sql("grant select on pqlite.jobs to pqlite_viewer"))
        await conn.execute(installation.sql("revoke execute on function pqlite.enqueue from pqlite_producer"))
    assert await privileges(installation) != before

    await run_psql(installation.dsn, schema.roles(installation.schema))

    assert await privileges(installation) == before
    assert {row[1].strip('"') for row in before} == {f"{installation.schema}_{role}" for role in ROLES}


async def test_migrating_keeps_every_grant(installation: Installation) -> None:
    before = await privileges(installation)
    async with installation.connected() as conn:
        await conn.execute(installation.sql("comment on view pqlite.queue_stats is 'of an older version'"))
        await schema.migrate(conn, installation.schema)

    assert await privileges(installation) == before


async def test_the_roles_of_one_schema_may_nothing_in_another(installation: Installation) -> None:
    other = f"{NAMES[0]}_too"
    async with installed(installation.dsn, other):
        for role in ROLES:
            async with installation.connected(role) as conn:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await conn.execute(f"select {other}.enqueue('t')")


async def test_a_role_that_may_make_roles_and_owns_the_database_needs_no_superuser(empty_dsn: str) -> None:
    """Hosted servers give nobody more."""
    name = NAMES[0]
    await skip_unless_roles_can_be_made(empty_dsn, name)
    installation = Installation(empty_dsn, name)
    owner = f"{name}_as_migrator"
    async with installation.connected() as admin:
        database = await admin.fetchval("select current_database()")
        await admin.execute(f"create role {owner} login createrole password 'between-tests-only'")
        try:
            await admin.execute(f'alter database "{database}" owner to {owner}')
            async with installation.connected("migrator") as conn:
                await schema.migrate(conn, name)
            for _ in range(2):
                await run_psql(installation.dsn_of("migrator"), schema.roles(name))

            assert {row[1] for row in await privileges(installation)} == {f"{name}_{role}" for role in ROLES}
            async with installation.connected("migrator") as conn:
                assert await schema.migrate(conn, name) == []
        finally:
            await admin.execute(f'alter database "{database}" owner to current_user')
            roles = ", ".join([owner, *(f"{name}_{role}" for role in ROLES)])
            await admin.execute(f"drop owned by {roles} cascade")
            await admin.execute(f"drop role {roles}")
