import json

import asyncpg
import pytest

from pqlite import NewJob, PgJobStore
from tests.store.workers import RegisteredWorker

LANES = [
    *[("default", "mail", 0), ("default", "mail", 5), ("default", "mail", -2), ("default", "sms", 0)],
    *[("slow", "mail", 0), ("slow", "report", 9), ("éa", "a'b", 0)],
]


@pytest.fixture
async def filled(store: PgJobStore) -> None:
    await store.enqueue_many(
        NewJob(queue=queue, job_type=job_type, priority=priority, payload=n)
        for queue, job_type, priority in LANES
        for n in range(2)
    )


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("queues", "types"),
    [
        *[(None, None), (["default"], None), (["slow", "éa", "nowhere"], None), (None, ["mail"])],
        *[(None, ["a'b", "sms"]), (["slow"], ["mail", "sms"]), ([], None), (None, []), (["nowhere"], ["mail"])],
    ],
)
async def test_lanes_are_exactly_those_that_have_ready_jobs_of_the_wanted_queues_and_types(
    worker: RegisteredWorker, queues: list[str] | None, types: list[str] | None
) -> None:
    heads = await worker.engine.lanes(queues, types)

    expected = {
        (queue, job_type, priority)
        for queue, job_type, priority in LANES
        if (queues is None or queue in queues) and (types is None or job_type in types)
    }
    assert {tuple(head.lane) for head in heads} == expected
    assert len(heads) == len(expected)
    priorities = [head.lane.priority for head in heads]
    assert priorities == sorted(priorities, reverse=True)


async def test_jobs_that_are_not_ready_and_suspects_make_no_lane(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    for job_type in ("suspect", "blocked", "done"):
        await store.enqueue(job_type)
    await conn.execute("update pqlite.jobs set crashes = 1 where job_type = 'suspect'")
    await conn.execute("update pqlite.jobs set status = upper(job_type) where job_type in ('blocked', 'done')")
    await store.enqueue("running")
    await worker.claim(types=["running"])

    assert await worker.engine.lanes(None, None) == []


async def test_a_thousand_queues_of_two_priorities_are_all_found(store: PgJobStore, worker: RegisteredWorker) -> None:
    await store.enqueue_many(
        NewJob(job_type="t", queue=f"q{n}", priority=priority) for n in range(1000) for priority in (0, 1)
    )

    heads = await worker.engine.lanes(None, ["t"])

    assert {(head.lane.queue, head.lane.priority) for head in heads} == {
        (f"q{n}", priority) for n in range(1000) for priority in (0, 1)
    }


async def test_ten_thousand_lanes_of_tomorrow_hide_none_of_today(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await conn.execute(
        "insert into pqlite.jobs (job_type, queue, run_after) "
        "select 't', 'a' || n, now() + n * interval '1 day' from generate_series(1, 11000) n"
    )
    await store.enqueue("t", queue="zz")

    heads = await worker.engine.lanes(None, ["t"])

    assert [head.lane.queue for head in heads if head.due_in <= 0] == ["zz"]
    assert [head.lane.queue for head in heads if head.due_in > 0] == ["a1"]


async def test_what_others_did_in_their_queues_costs_a_look_into_ones_own_nothing(
    store: PgJobStore, conn: asyncpg.Connection, dsn: str
) -> None:
    await conn.execute("alter table pqlite.jobs set (autovacuum_enabled = off)")
    pin = await asyncpg.connect(dsn)  # keeps vacuum, and every scan, from forgetting what is dead
    await pin.execute("begin isolation level repeatable read; select 1 from pqlite.jobs")
    await conn.execute("insert into pqlite.jobs (queue, job_type) select 'busy', 't' from generate_series(1, 20000)")
    await conn.execute("update pqlite.jobs set status = 'DONE'")
    await store.enqueue("t", queue="quiet")

    async def buffers(queues: str) -> int:
        explain = "explain (analyze, buffers, format json) select * from pqlite.lanes(" + queues + ", null)"
        [plan] = json.loads(await conn.fetchval(explain))
        return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])

    everywhere, own = await buffers("null"), await buffers("'{quiet,zzz}'")
    await pin.close()

    assert own < 50 < everywhere
