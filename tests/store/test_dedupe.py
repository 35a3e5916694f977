"""At most one active job has a key, whoever races for it."""

import asyncio
import random
from datetime import timedelta

import asyncpg
import pytest

from pqlite import DedupeKeyBusy, InvalidJob, NewJob, PayloadError, PgJobStore
from pqlite.store import writer
from tests.store.conftest import Connect
from tests.store.workers import RegisteredWorker, fetch_job, until_blocked


@pytest.mark.parametrize("status", ["READY", "BLOCKED", "RUNNING"])
async def test_an_active_jobs_id_is_returned_for_its_key(
    store: PgJobStore, conn: asyncpg.Connection, status: str
) -> None:
    first = await store.enqueue("t", {"n": 1}, dedupe_key="k")
    locked_by = "somebody" if status == "RUNNING" else None
    await conn.execute("update pqlite.jobs set status = $1, locked_by = $2", status, locked_by)

    second = await store.enqueue("other", {"n": 2}, dedupe_key="k")

    assert second == first
    assert (await store.get(first)).payload == {"n": 1}
    assert await conn.fetchval("select count(*) from pqlite.jobs") == 1


@pytest.mark.parametrize("status", ["DONE", "FAILED", "CANCELLED"])
async def test_a_finished_jobs_key_is_free(store: PgJobStore, conn: asyncpg.Connection, status: str) -> None:
    first = await store.enqueue("t", dedupe_key="k")
    await conn.execute("update pqlite.jobs set status = $1", status)

    assert await store.enqueue("t", dedupe_key="k") != first


async def test_a_duplicate_writes_no_row_version_and_takes_no_lock_of_the_holder(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    job_id = await store.enqueue("t", dedupe_key="k")
    version = "select ctid, xmin, xmax from pqlite.jobs where id = $1"
    before = await conn.fetchrow(version, job_id)

    await store.enqueue("t", dedupe_key="k")
    await store.enqueue_many([NewJob(job_type="t", dedupe_key="k")] * 2)

    assert await conn.fetchrow(version, job_id) == before


async def test_a_claim_does_not_wait_for_an_open_transaction_that_enqueued_a_duplicate(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    job_id = await store.enqueue("t", dedupe_key="k")

    async with conn.transaction():
        assert await store.enqueue("t", dedupe_key="k", conn=conn) == job_id

        assert [job.id for job in await worker.claim()] == [job_id]


# Two transactions and one key


async def test_enqueue_returns_the_rivals_job_when_the_rival_commits(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect
) -> None:
    rival = conn.transaction()
    await rival.start()
    rivals = await store.enqueue("t", dedupe_key="k", conn=conn)

    async with asyncio.TaskGroup() as tasks:
        ours = tasks.create_task(store.enqueue("t", dedupe_key="k"))
        await until_blocked(await connect())
        await rival.commit()

    assert ours.result() == rivals


async def test_enqueue_adds_a_job_when_the_rival_rolls_back(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect
) -> None:
    rival = conn.transaction()
    await rival.start()
    rivals = await store.enqueue("t", dedupe_key="k", conn=conn)

    async with asyncio.TaskGroup() as tasks:
        ours = tasks.create_task(store.enqueue("t", dedupe_key="k"))
        await until_blocked(await connect())
        await rival.rollback()

    assert ours.result() != rivals
    assert await conn.fetchval("select array_agg(id) from pqlite.jobs") == [ours.result()]


@pytest.mark.parametrize("finishes", [True, False])
async def test_enqueue_waits_for_the_end_of_the_transaction_that_finishes_the_holder(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect, finishes: bool
) -> None:
    holder = await store.enqueue("t", dedupe_key="k")
    finishing = conn.transaction()
    await finishing.start()
    await store.cancel(holder, conn=conn)

    async with asyncio.TaskGroup() as tasks:
        ours = tasks.create_task(store.enqueue("t", dedupe_key="k"))
        await until_blocked(await connect())
        await (finishing.commit() if finishes else finishing.rollback())

    assert (ours.result() == holder) is not finishes


async def test_enqueue_adds_a_job_when_the_rivals_was_committed_and_finished_in_between(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect
) -> None:
    rival = conn.transaction()
    await rival.start()
    rivals = await store.enqueue("t", dedupe_key="k", conn=conn)
    await store.cancel(rivals, conn=conn)

    async with asyncio.TaskGroup() as tasks:
        ours = tasks.create_task(store.enqueue_many([NewJob(job_type="t", dedupe_key="k")]))
        await until_blocked(await connect())
        await rival.commit()

    [(ours_id, inserted)] = ours.result()
    assert inserted
    assert ours_id != rivals


@pytest.mark.parametrize("many", [True, False])
async def test_enqueue_adds_a_job_when_the_holder_finishes_after_it_was_seen_and_before_it_was_found(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect, many: bool
) -> None:
    holder = await store.enqueue("t", dedupe_key="k")
    # The trigger is a place to stop between the two statements: it fires even if nothing was inserted.
    await conn.execute(
        """
        create function stop() returns trigger language plpgsql as
          $$ begin perform pg_advisory_xact_lock(1); return null; end $$;
        create trigger stop after insert on pqlite.jobs for each statement execute function stop();
        """
    )
    await conn.execute("select pg_advisory_lock(1)")

    async def enqueue() -> int:
        if many:
            return (await store.enqueue_many([NewJob(job_type="t", dedupe_key="k")]))[0].id
        return await store.enqueue("t", dedupe_key="k")

    async with asyncio.TaskGroup() as tasks:
        ours = tasks.create_task(enqueue())
        await until_blocked(await connect())
        await store.cancel(holder)
        await conn.execute("select pg_advisory_unlock(1)")

    assert ours.result() != holder
    assert (await store.get(ours.result())).status == "READY"


async def test_a_key_held_by_a_transaction_that_does_not_end_is_reported_as_busy(
    store: PgJobStore, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "KEY_WAIT", timedelta(milliseconds=20))
    async with conn.transaction():
        await store.enqueue("t", dedupe_key="k", conn=conn)

        with pytest.raises(DedupeKeyBusy, match="holds the dedupe key 'k'; nothing was enqueued"):
            await store.enqueue("t", dedupe_key="k")
        with pytest.raises(DedupeKeyBusy, match="holds one of the dedupe keys; nothing was enqueued"):
            await store.enqueue_many([NewJob(job_type="t"), NewJob(job_type="t", dedupe_key="k")])

        assert await store.enqueue("t", dedupe_key="another") is not None

    assert await conn.fetchval("select count(*) from pqlite.jobs") == 2


async def test_the_wait_for_a_key_does_not_leak_into_the_pools_session(
    dsn: str, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "KEY_WAIT", timedelta(milliseconds=20))
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool, PgJobStore(pool=pool) as store:
        async with conn.transaction():
            await store.enqueue("t", dedupe_key="k", conn=conn)
            with pytest.raises(DedupeKeyBusy):
                await store.enqueue("t", dedupe_key="k")

        assert await pool.fetchval("show lock_timeout") == "0"


# Crowds


async def test_twenty_tasks_with_the_same_keys_get_the_same_jobs(store: PgJobStore, conn: asyncpg.Connection) -> None:
    keys = [f"k{n}" for n in range(25)]

    async def enqueue_all() -> dict[str, int]:
        shuffled = random.sample(keys, len(keys))
        return {key: await store.enqueue("t", dedupe_key=key) for key in shuffled}

    async with asyncio.TaskGroup() as tasks:
        callers = [tasks.create_task(enqueue_all()) for _ in range(20)]

    assert all(caller.result() == callers[0].result() for caller in callers)
    assert await conn.fetchval("select count(*) from pqlite.jobs") == len(keys)


async def test_eight_batches_with_the_same_keys_in_any_order_never_deadlock_and_get_the_same_jobs(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    keys = [f"{letter}{n}" for n in range(300) for letter in "aB_éZ"]

    async def enqueue_all() -> dict[str, int]:
        shuffled = random.sample(keys, len(keys))
        verdicts = await store.enqueue_many(NewJob(job_type="t", dedupe_key=key) for key in shuffled)
        return {key: verdict.id for key, verdict in zip(shuffled, verdicts, strict=True)}

    async with asyncio.TaskGroup() as tasks:
        callers = [tasks.create_task(enqueue_all()) for _ in range(8)]

    assert all(caller.result() == callers[0].result() for caller in callers)
    assert await conn.fetchval("select count(*) from pqlite.jobs") == len(keys)


async def test_batches_take_keys_in_the_order_of_bytes_whatever_the_databases_collation(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect
) -> None:
    """Chunks are cut by that order: another order within them could deadlock two long batches."""
    third = await connect()
    await third.execute("set lock_timeout = '20ms'")
    holding = conn.transaction()
    await holding.start()
    await store.enqueue("t", dedupe_key="é", conn=conn)

    batch = await connect()
    function = """
        select inserted from pqlite.enqueue_many(
          '{t,t,t}', '{1,1,1}', '{é,a,Z}', '{null,null,null}', '{null,null,null}', '{0,0,0}', '{1,1,1}',
          '{null,null,null}', '{q,q,q}', '{[],[],[]}', array['{}','{}','{}'], '{null,null,null}', '{null,null,null}')
    """
    async with asyncio.TaskGroup() as tasks:
        inserting = tasks.create_task(batch.fetch(function))
        await until_blocked(await connect())
        for key in "aZ":
            with pytest.raises(asyncpg.LockNotAvailableError):
                await store.enqueue("t", dedupe_key=key, conn=third)
        await holding.rollback()

    assert [inserted for (inserted,) in inserting.result()] == [True] * 3


# Batches


async def test_every_field_of_a_batch_is_stored_as_enqueue_stores_it(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    fields = {
        **{"job_type": "t", "payload": {"a": [1, "b"]}, "run_after": timedelta(hours=2), "priority": 7},
        **{"max_attempts": 1, "timeout_seconds": 1.5, "queue": "q", "tags": ["x", 'y"}'], "metadata": {"m": None}},
        **{"concurrency_key": "c"},
    }
    one = await store.enqueue(**fields)
    [(many, _)] = await store.enqueue_many([fields])

    rows = [dict(await fetch_job(conn, job_id)) for job_id in (one, many)]
    for row in rows:
        row["run_after"] = round((row["run_after"] - row.pop("created_at")).total_seconds(), 1)
        del row["id"], row["updated_at"]
    assert rows[0] == rows[1]


async def test_a_batch_of_more_than_a_thousand_is_stored_whole(store: PgJobStore, conn: asyncpg.Connection) -> None:
    keys = [f"k{n % 2100}" if n % 3 else None for n in range(2500)]

    verdicts = await store.enqueue_many(
        {"job_type": "t", "payload": n, "dedupe_key": key} for n, key in enumerate(keys)
    )

    assert len(verdicts) == 2500
    stored = dict(await conn.fetch("select id, payload::text::int from pqlite.jobs"))
    assert len(stored) == sum(verdict.inserted for verdict in verdicts)
    assert all(stored[verdict.id] == n for n, verdict in enumerate(verdicts) if verdict.inserted)
    first = {key: verdict.id for key, verdict in reversed(list(zip(keys, verdicts, strict=True)))}
    assert all(verdict.id == first[key] for key, verdict in zip(keys, verdicts, strict=True) if key)


async def test_an_empty_batch_needs_no_database() -> None:
    async with PgJobStore(dsn="postgresql://127.0.0.1:1/nowhere") as store:
        assert await store.enqueue_many([]) == []


async def test_a_batch_is_all_or_nothing_even_beyond_the_first_thousand(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await conn.execute("alter table pqlite.jobs add check (priority < 10)")

    with pytest.raises(asyncpg.CheckViolationError):
        await store.enqueue_many(NewJob(job_type="t", priority=10 * (n == 1500)) for n in range(1501))

    assert await conn.fetchval("select count(*) from pqlite.jobs") == 0


@pytest.mark.parametrize(
    ("bad", "kind", "sentence"),
    [
        ({"job_type": "t", "priority": "high"}, InvalidJob, "job 2: priority must be a whole number"),
        ({"job_type": "t", "payload": [float("nan")]}, PayloadError, r"job 2: payload\[0\] is nan"),
        ({"job_type": "t", "prioritty": 1}, InvalidJob, "job 2: .*'prioritty'.*'priority'"),
        ({"payload": 1}, InvalidJob, "job 2: .*missing .*'job_type'"),
        (7, InvalidJob, "job 2: "),
    ],
)
async def test_a_refused_batch_names_the_position_and_writes_nothing(
    store: PgJobStore, conn: asyncpg.Connection, bad: object, kind: type[InvalidJob], sentence: str
) -> None:
    with pytest.raises(InvalidJob, match=sentence) as refusal:
        await store.enqueue_many([{"job_type": "t"}, NewJob(job_type="t"), bad])  # type: ignore[list-item]

    assert type(refusal.value) is kind
    assert await conn.fetchval("select count(*) from pqlite.jobs") == 0
