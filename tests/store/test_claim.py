import asyncio
from datetime import timedelta

import asyncpg
import pytest

from pqlite import JobStatus, LeaseLost, NewJob, PgJobStore
from pqlite.job import Job
from pqlite.store.engine import Lane
from tests.store.conftest import Connect, Register
from tests.store.workers import BEGINNING, RegisteredWorker, declare_dead, fetch_job, until_blocked

CLAIM = "select id from pqlite.claim($1, 10, false, null, null, '{default}', '{t}', '{0}', '{-infinity}', '{0}')"


async def test_a_claimed_job_is_running_in_the_name_of_its_worker(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    job_id = await store.enqueue("t", {"a": 1}, tags=["x"], metadata={"m": 1}, timeout_seconds=3, dedupe_key="k")

    job = await worker.claim_one()

    row = await fetch_job(conn, job_id)
    assert (row["status"], row["locked_by"], row["attempts"], row["claims"]) == ("RUNNING", worker.id, 1, 1)
    assert row["locked_at"] is not None
    assert (job.id, job.status, job.locked_by, job.locked_at) == (
        job_id,
        JobStatus.RUNNING,
        worker.id,
        row["locked_at"],
    )
    assert (job.payload, job.tags, job.metadata) == ({"a": 1}, ["x"], {"m": 1})
    assert (job.attempts, job.claims, job.timeout_seconds, job.dedupe_key) == (1, 1, 3.0, "k")


async def test_jobs_of_a_lane_are_claimed_in_the_order_of_due_time_and_then_of_id(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    ids = [verdict.id for verdict in await store.enqueue_many([NewJob(job_type="t")] * 4)]
    for job_id, minutes in zip(ids, (5, 10, 5, 1), strict=True):
        await conn.execute(
            "update pqlite.jobs set run_after = now()::date - $2::interval where id = $1",
            *(job_id, timedelta(minutes=minutes)),
        )

    claimed = [(await worker.claim_one()).id for _ in ids]

    assert claimed == [ids[1], ids[0], ids[2], ids[3]]


async def test_a_claim_of_nothing_returns_nothing(worker: RegisteredWorker) -> None:
    assert await worker.claim_from([Lane("default", "t", 0)], suspect=True) == []
    assert await worker.claim_from([], suspect=True) == []


# Suspects


async def test_a_suspect_counts_against_the_limit_and_comes_before_the_lanes(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    suspect = await store.enqueue("t")
    await conn.execute("update pqlite.jobs set crashes = 1")
    await store.enqueue("t", priority=9)

    claimed, _ = await worker.engine.claim(*(worker.id, 1), suspect=True, queues=None, types=None, lanes=[])

    assert [(lane, job.id, job.crashes) for lane, [job] in claimed] == [(None, suspect, 1)]


async def test_a_suspect_that_another_claimer_has_locked_is_stepped_over(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    first, second = [await store.enqueue("t") for _ in range(2)]
    await conn.execute("update pqlite.jobs set crashes = 1")

    async with conn.transaction():
        await conn.execute("select from pqlite.jobs where id = $1 for update", first)
        assert [job.id for job in await worker.claim_from([], suspect=True)] == [second]


async def test_a_suspect_of_another_type_or_queue_is_left_alone(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue("t", queue="q")
    await conn.execute("update pqlite.jobs set crashes = 1")

    assert await worker.claim_from([], suspect=True, types=["other"]) == []
    assert await worker.claim_from([], suspect=True, queues=["default"]) == []
    assert len(await worker.claim_from([], suspect=True, queues=["q"], types=["t"])) == 1


# Who may claim


async def test_a_worker_that_dies_while_its_claim_is_on_its_way_claims_nothing(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect, worker: RegisteredWorker
) -> None:
    job_id = await store.enqueue("t")
    judging = await connect()
    verdict = judging.transaction()
    await verdict.start()
    await judging.execute("delete from pqlite.workers where id = $1", worker.id)

    async def refused() -> None:
        with pytest.raises(LeaseLost):
            await worker.claim_from([Lane("default", "t", 0)])

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(refused())
        await until_blocked(conn)
        await verdict.commit()

    assert (await store.get(job_id)).status is JobStatus.READY


async def test_a_worker_cannot_unregister_before_its_last_claim_has_ended(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect, worker: RegisteredWorker
) -> None:
    """A row that RUNNING jobs name must stay, or nobody would give them back for 20 minutes."""
    await store.enqueue("t")
    claiming = conn.transaction()
    await claiming.start()
    assert len(await conn.fetch(CLAIM, worker.id)) == 1

    async with asyncio.TaskGroup() as tasks:
        gone = tasks.create_task(worker.engine.unregister(worker.id))
        await until_blocked(await connect())
        await claiming.commit()

    assert gone.result() is False
    assert await conn.fetchval("select dead_at is not null from pqlite.workers where id = $1", worker.id)


async def test_a_renewal_does_not_wait_for_a_claim(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    async with conn.transaction():
        assert len(await conn.fetch(CLAIM, worker.id)) == 1

        assert await worker.engine.renew(worker.id, timedelta(seconds=20), None, deadline=2.0) == []


# Many claimers


async def test_a_row_another_claimer_has_locked_is_stepped_over(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    first, second = [verdict.id for verdict in await store.enqueue_many([NewJob(job_type="t")] * 2)]

    async with conn.transaction():
        await conn.execute("select from pqlite.jobs where id = $1 for update", first)

        assert [job.id for job in await worker.claim()] == [second]


async def test_a_foreign_key_to_a_job_does_not_hide_it(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    job_id = await store.enqueue("t")
    await conn.execute("create table orders (job_id bigint references pqlite.jobs (id))")

    async with conn.transaction():
        await conn.execute("insert into orders values ($1)", job_id)

        assert [job.id for job in await worker.claim()] == [job_id]


async def test_eight_claimers_of_two_thousand_jobs_share_none(
    store: PgJobStore, conn: asyncpg.Connection, register: Register
) -> None:
    await store.enqueue_many(NewJob(job_type=f"t{n % 3}", priority=n % 2) for n in range(2000))
    workers = [await register() for _ in range(8)]

    async def drain(worker: RegisteredWorker) -> list[Job]:
        mine: list[Job] = []
        while jobs := await worker.claim(7):
            mine += jobs
        return mine

    async with asyncio.TaskGroup() as tasks:
        drains = [tasks.create_task(drain(worker)) for worker in workers]

    claimed = [(job.id, job.claims) for drain in drains for job in drain.result()]
    assert len(claimed) == len(set(claimed)) == 2000
    assert await conn.fetchval("select count(*) from pqlite.jobs where status = 'RUNNING' and claims = 1") == 2000
    assert all(drain.result() for drain in drains)


# Durability


@pytest.mark.parametrize(("attempts", "expected"), [([5, 5], "off"), ([5, 1], "on"), ([1], "on"), ([], "off")])
async def test_only_a_claim_without_at_most_once_jobs_commits_asynchronously(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker, attempts: list[int], expected: str
) -> None:
    await store.enqueue_many(NewJob(job_type="t", max_attempts=n) for n in attempts)

    async with conn.transaction():
        assert len(await conn.fetch(CLAIM, worker.id)) == len(attempts)
        assert await conn.fetchval("show synchronous_commit") == expected

    assert await conn.fetchval("show synchronous_commit") == "on"


async def test_one_at_most_once_job_in_any_lane_makes_the_whole_claim_synchronous(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    for queue, max_attempts in (("a", 5), ("b", 1), ("c", 5)):
        await store.enqueue("t", queue=queue, max_attempts=max_attempts)

    async with conn.transaction():
        lanes = "'{a,b,c}', '{t,t,t}', '{0,0,0}', '{-infinity,-infinity,-infinity}', '{0,0,0}'"
        claim = f"select id from pqlite.claim($1, 9, false, null, null, {lanes})"
        assert len(await conn.fetch(claim, worker.id)) == 3
        assert await conn.fetchval("show synchronous_commit") == "on"


async def test_an_at_most_once_suspect_is_claimed_synchronously(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue("t", max_attempts=1)
    await conn.execute("update pqlite.jobs set crashes = 1")

    async with conn.transaction():
        claim = "select id from pqlite.claim($1, 1, true, null, null, '{}', '{}', '{}', '{}', '{}')"
        assert len(await conn.fetch(claim, worker.id)) == 1
        assert await conn.fetchval("show synchronous_commit") == "on"


async def test_a_dead_worker_cannot_claim(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    await declare_dead(conn, worker)

    with pytest.raises(LeaseLost):
        await worker.claim()


async def test_a_payload_that_python_cannot_read_costs_only_its_own_job(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await conn.execute("insert into pqlite.jobs (job_type, payload) values ('t', to_jsonb(10::numeric ^ 5000))")
    good = await store.enqueue("t", {"a": 1})

    bad, fine = await worker.claim()

    assert type(bad.payload).__name__ == "Undecodable"
    assert (fine.id, fine.payload) == (good, {"a": 1})


async def test_a_suspect_is_never_prefetched(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    await conn.execute("update pqlite.jobs set crashes = 1")

    waiting, _ = await worker.engine.claim(worker.id, 0, prefetch=5, suspect=True, queues=None, types=None, lanes=[])
    starting, _ = await worker.engine.claim(worker.id, 1, prefetch=5, suspect=True, queues=None, types=None, lanes=[])

    assert (len(waiting), len(starting)) == (0, 1)


async def test_nothing_is_prefetched_while_a_suspect_waits_for_room(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    suspect = await store.enqueue("t")
    await conn.execute("update pqlite.jobs set crashes = 1")
    await store.enqueue("t")
    lanes = [(Lane("default", "t", 0), BEGINNING)]

    full, _ = await worker.engine.claim(worker.id, 0, prefetch=5, suspect=True, queues=None, types=None, lanes=lanes)
    free, _ = await worker.engine.claim(worker.id, 1, prefetch=5, suspect=True, queues=None, types=None, lanes=lanes)

    assert full == []
    assert free[0][1][0].id == suspect
