"""Single enqueues with keys share statements; a key that an open transaction holds holds up nobody else."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from pqlite import DedupeKeyBusy, PgJobStore
from pqlite.store import writer
from tests.store.conftest import Connect
from tests.support import until

HELD = "select id from pqlite.enqueue('t', dedupe_key => $1)"


async def test_twenty_callers_with_keys_of_their_own_share_few_transactions(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    ids = await asyncio.gather(*(store.enqueue("t", n, dedupe_key=f"k{n % 15}") for n in range(20)))

    rows = await conn.fetch("select id, dedupe_key, payload::text::int as n from pqlite.jobs")
    assert {(row["id"], row["dedupe_key"]) for row in rows} == {(ids[n], f"k{n % 15}") for n in range(20)}
    assert len(set(ids)) == len(rows) == 15
    assert await conn.fetchval("select count(distinct xmin::text) from pqlite.jobs") <= 2


async def test_fifty_callers_of_a_held_key_keep_one_connection_and_hold_up_no_other_enqueue(
    dsn: str, conn: asyncpg.Connection
) -> None:
    async with asyncpg.create_pool(dsn, min_size=0, max_size=2) as pool, PgJobStore(pool=pool) as store:
        transaction = conn.transaction()
        await transaction.start()
        held = await conn.fetchval(HELD, "held")
        waiting = [asyncio.create_task(store.enqueue("t", dedupe_key="held")) for _ in range(50)]
        await asyncio.sleep(0)

        async with asyncio.timeout(4):  # less than the wait for one key
            others = await asyncio.gather(*(store.enqueue("t", dedupe_key=f"k{n}") for n in range(20)))
            others += [await store.enqueue("t"), await store.enqueue("t", dedupe_key="k20")]
            assert await pool.fetchval("select 1") == 1
        assert len(set(others)) == 22
        assert not any(task.done() for task in waiting)

        await transaction.commit()
        async with asyncio.timeout(4):
            assert set(await asyncio.gather(*waiting)) == {held}


async def test_several_held_keys_wait_side_by_side_and_each_goes_on_when_its_own_is_free(
    store: PgJobStore, connect: Connect
) -> None:
    rivals = [await connect() for _ in range(3)]
    transactions = [rival.transaction() for rival in rivals]
    for n, rival in enumerate(rivals):
        await transactions[n].start()
        await rival.fetchval(HELD, f"k{n}")

    waiting = [asyncio.create_task(store.enqueue("t", dedupe_key=f"k{n}")) for n in range(3)]
    for n in (2, 0, 1):
        assert not waiting[n].done()
        await transactions[n].rollback()
        async with asyncio.timeout(4):
            await waiting[n]

    assert len({await task for task in waiting}) == 3


async def test_when_the_caller_that_asks_for_a_held_key_is_cancelled_the_next_one_asks(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    async with conn.transaction():
        held = await conn.fetchval(HELD, "held")
        waiting = [asyncio.create_task(store.enqueue("t", dedupe_key="held")) for _ in range(3)]
        await until(lambda: store._writer is not None and store._writer._busy_keys)
        waiting[0].cancel()
        await asyncio.wait([waiting[0]])

    async with asyncio.timeout(4):
        assert [await task for task in waiting[1:]] == [held, held]
    assert waiting[0].cancelled()


async def test_callers_of_a_key_that_stays_held_are_told_in_time_and_their_jobs_are_not_written(
    store: PgJobStore, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "KEY_WAIT", timedelta(milliseconds=100))
    async with conn.transaction():
        await conn.fetchval(HELD, "held")
        async with asyncio.timeout(4):
            ends = await asyncio.gather(
                *(store.enqueue("t", dedupe_key="held") for _ in range(10)), return_exceptions=True
            )

    assert {type(end) for end in ends} == {DedupeKeyBusy}
    assert await conn.fetchval("select count(*) from pqlite.jobs") == 1


async def test_a_batch_with_a_wait_names_the_rows_whose_keys_are_held_and_inserts_the_others(
    conn: asyncpg.Connection, connect: Connect
) -> None:
    rival = await connect()
    await conn.fetchval(HELD, "old")
    async with rival.transaction():
        await rival.fetchval(HELD, "b")
        await rival.fetchval(HELD, "d")
        rows = await conn.fetch(
            "select ordinal, id, inserted from pqlite.enqueue_many('{t}', array_fill('{}'::text, '{7}'), "
            "'{d,a,b,c,old,b,a}', p_lock_wait => '10 ms') order by ordinal"
        )

    assert [(row["id"] is None, row["inserted"]) for row in rows] == [
        *((True, False), (False, True), (True, False), (False, True)),
        *((False, False), (True, False), (False, False)),
    ]
    assert rows[4]["id"] == 1
    assert rows[6]["id"] == rows[1]["id"]
    keys = await conn.fetch('select dedupe_key from pqlite.jobs order by dedupe_key collate "C"')
    assert [row[0] for row in keys] == ["a", "b", "c", "d", "old"]
    assert await conn.fetchval("show lock_timeout") == "0"


async def test_a_lock_of_the_whole_table_is_not_taken_for_a_busy_key(
    store: PgJobStore, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "KEY_WAIT", timedelta(milliseconds=50))
    async with conn.transaction():
        await conn.execute("lock table pqlite.jobs in exclusive mode")
        waiting = [asyncio.create_task(store.enqueue("t", dedupe_key=f"k{n}")) for n in range(3)]
        done, _ = await asyncio.wait(waiting, timeout=0.3)
        assert not done

    assert len(set(await asyncio.gather(*waiting))) == 3


@pytest.mark.parametrize("crowd", [1, 5])
async def test_a_store_that_is_closed_ends_the_wait_for_a_key(
    dsn: str, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, crowd: int
) -> None:
    monkeypatch.setattr("pqlite.store.postgres.CLOSE_SECONDS", 0.1)
    store = PgJobStore(dsn=dsn)
    await store.start()
    async with conn.transaction():
        await conn.fetchval(HELD, "held")
        waiting = [asyncio.create_task(store.enqueue("t", dedupe_key="held")) for _ in range(crowd)]
        await until(lambda: store._writer is not None and store._writer._busy_keys)
        await store.close()
        async with asyncio.timeout(4):
            ends = await asyncio.gather(*waiting, return_exceptions=True)

    assert [str(end) for end in ends] == [
        "The store was closed before the database said that the job was enqueued."
    ] * crowd


@pytest.mark.parametrize("many", [False, True])
async def test_a_lock_of_the_whole_table_is_waited_for_and_not_taken_for_one_of_a_key(
    many: bool, store: PgJobStore, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "KEY_WAIT", timedelta(milliseconds=20))
    monkeypatch.setattr(writer, "SHARED_WAIT", timedelta(milliseconds=20))
    async with conn.transaction():
        await conn.execute("lock table pqlite.jobs in share mode")  # as CREATE INDEX does
        job = {"job_type": "t", "dedupe_key": "k"}
        enqueueing = asyncio.create_task(store.enqueue_many([job]) if many else store.enqueue("t", dedupe_key="k"))
        waiting = "select count(*) from pg_locks where not granted and relation = 'pqlite.jobs'::regclass"

        async def has_waited() -> bool:
            return bool(await conn.fetchval(waiting)) and bool(await conn.fetchval("select true from pg_sleep(0.05)"))

        await until(has_waited, "the enqueue to wait for the table")
        assert not enqueueing.done()
    await enqueueing

    assert await conn.fetchval("select count(*) from pqlite.jobs") == 1
