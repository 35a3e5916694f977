"""The contract, used by another driver than ours."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pqlite import JobStatus, PgJobStore
from tests.support import status_of

psycopg: Any = pytest.importorskip("psycopg", exc_type=ImportError, reason="psycopg finds no libpq (Debian: libpq5)")


@pytest.fixture
def session(dsn: str) -> Iterator[Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


ENQUEUE = "select id, inserted from pqlite.enqueue(%s, %s, dedupe_key => %s)"


async def test_a_synchronous_psycopg_enqueues_cancels_and_retries(session: Any, store: PgJobStore) -> None:
    job_id, inserted = session.execute(ENQUEUE, ("t", json.dumps({"a": [1]}), "k")).fetchone()

    assert inserted
    assert session.execute(ENQUEUE, ("t", "{}", "k")).fetchone() == (job_id, False)
    assert (await store.get(job_id)).payload == {"a": [1]}
    assert session.execute("select pqlite.cancel(%s)", (job_id,)).fetchone() == ("CANCELLED",)
    assert session.execute("select pqlite.retry(%s)", (job_id,)).fetchone() == ("CANCELLED",)
    assert session.execute("select status, payload from pqlite.job(%s)", (job_id,)).fetchone() == ("READY", {"a": [1]})


async def test_a_transaction_of_psycopg_decides_whether_its_job_exists(session: Any, store: PgJobStore) -> None:
    with session.transaction(force_rollback=True):
        [gone] = session.execute("select id from pqlite.enqueue('t')").fetchone()
    with session.transaction():
        [kept] = session.execute("select id from pqlite.enqueue('t')").fetchone()

    assert session.execute("select * from pqlite.job(%s)", (gone,)).fetchall() == []
    assert await status_of(store, kept) is JobStatus.READY


async def test_an_asynchronous_psycopg_enqueues_a_batch(dsn: str, store: PgJobStore) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        payloads = [json.dumps({"n": n}) for n in range(3)]
        cursor = await connection.execute(
            "select id, inserted from pqlite.enqueue_many(%s, %s, %s) order by ordinal",
            (["t"], payloads, ["a", "b", "a"]),
        )
        verdicts = await cursor.fetchall()
        cursor = await connection.execute("select pqlite.enqueue_keyless(%s, %s)", (["t"], payloads))
        [(ids,)] = await cursor.fetchall()

    assert [inserted for _, inserted in verdicts] == [True, True, False]
    assert verdicts[2][0] == verdicts[0][0]
    assert [(await store.get(job_id)).payload for job_id in ids] == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_a_trigger_enqueues_for_a_client_that_knows_nothing_of_it(session: Any, store: PgJobStore) -> None:
    session.execute("create table orders (id int)")
    session.execute(
        "create trigger changed after insert on orders for each row execute function pqlite.enqueue_on_change('t')"
    )
    session.cursor().executemany("insert into orders values (%s)", [(1,), (2,)])

    assert [(await store.get(job_id)).payload["new"] for job_id in (1, 2)] == [{"id": 1}, {"id": 2}]
