"""Death is a fact about a worker, never about a job's age."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import asyncpg
import pytest

from pqlite import JobStatus, NewJob, PgJobStore
from pqlite.outcome import Verb, Verdict
from tests.store.conftest import Connect, Register
from tests.store.workers import RegisteredWorker, declare_dead, fetch_job, make_steady, silence

KEY, JUDGES_KEY = 4711, 4712
LEASE = timedelta(seconds=20)


@pytest.fixture
async def judge(register: Register, connect: Connect, conn: asyncpg.Connection) -> RegisteredWorker:
    await hold(await connect(), JUDGES_KEY)
    worker = await register(lock_key=JUDGES_KEY)
    await make_steady(conn, worker)
    return worker


async def hold(session: asyncpg.Connection, key: int) -> None:
    await session.execute("select pg_advisory_lock($1)", key)


async def is_dead(conn: asyncpg.Connection, worker: RegisteredWorker) -> bool:
    return await conn.fetchval("select dead_at is not null from pqlite.workers where id = $1", worker.id)


async def exists(conn: asyncpg.Connection, worker: RegisteredWorker) -> bool:
    return await conn.fetchval("select exists (select from pqlite.workers where id = $1)", worker.id)


# Who is dead


async def test_a_worker_whose_lease_has_passed_is_dead_and_its_jobs_are_ready_again(
    store: PgJobStore, conn: asyncpg.Connection, judge: RegisteredWorker, worker: RegisteredWorker
) -> None:
    job_id = await store.enqueue("t", queue="q")
    claimed = await worker.claim_one()
    await silence(conn, worker, 21)

    [taken] = await judge.engine.reap(judge.id)

    assert (taken.id, taken.job_type, taken.queue, taken.locked_by) == (job_id, "t", "q", worker.id)
    assert (taken.status, taken.attempts) == (JobStatus.READY, 1)
    assert await is_dead(conn, worker)
    job = await store.get(job_id)
    assert (job.status, job.attempts, job.claims, job.crashes) == (JobStatus.READY, 1, 1, 1)
    assert (job.run_after, job.locked_by, job.locked_at) == (claimed.run_after, None, None)
    assert job.last_error == f"worker died ({worker.id})"
    assert [(error["attempt"], error["error"]) for error in job.errors] == [(1, job.last_error)]


async def test_a_worker_that_is_silent_for_less_than_its_lease_and_has_no_lock_lives(
    store: PgJobStore, conn: asyncpg.Connection, judge: RegisteredWorker, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    await worker.claim_one()
    await silence(conn, worker, 19)

    assert await judge.engine.reap(judge.id) == []
    assert not await is_dead(conn, worker)


async def test_a_worker_whose_lock_is_free_is_dead_eight_seconds_after_its_last_renewal(
    store: PgJobStore, conn: asyncpg.Connection, judge: RegisteredWorker, register: Register
) -> None:
    killed = await register(lock_key=KEY)
    await store.enqueue("t")
    job = await killed.claim_one()

    await silence(conn, killed, 7)
    assert await judge.engine.reap(judge.id) == []

    await silence(conn, killed, 1.1)
    assert [taken.id for taken in await judge.engine.reap(judge.id)] == [job.id]


async def test_a_silent_worker_whose_lock_is_held_lives_until_its_lease_passes(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect, judge: RegisteredWorker, register: Register
) -> None:
    stuck = await register(lock_key=KEY)
    await hold(await connect(), KEY)
    await store.enqueue("t")
    job = await stuck.claim_one()

    await silence(conn, stuck, 19)
    assert await judge.engine.reap(judge.id) == []
    assert not await is_dead(conn, stuck)

    await silence(conn, stuck, 2)
    assert [taken.id for taken in await judge.engine.reap(judge.id)] == [job.id]


async def test_the_probe_of_a_lock_does_not_outlive_its_statement(
    conn: asyncpg.Connection, judge: RegisteredWorker, register: Register
) -> None:
    await silence(conn, await register(lock_key=KEY), 10)

    await judge.engine.reap(judge.id)

    assert await conn.fetchval("select pg_try_advisory_lock($1)", KEY)


async def test_a_renewal_on_its_way_keeps_its_worker_alive(
    store: PgJobStore, conn: asyncpg.Connection, judge: RegisteredWorker, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    await worker.claim_one()
    await silence(conn, worker, 60)

    async with conn.transaction():
        await conn.execute("select from pqlite.renew($1, $2, null)", worker.id, LEASE)
        assert await judge.engine.reap(judge.id) == []

    assert await judge.engine.reap(judge.id) == []
    assert not await is_dead(conn, worker)


async def test_the_age_of_a_job_says_nothing_about_its_worker(
    store: PgJobStore, conn: asyncpg.Connection, judge: RegisteredWorker, worker: RegisteredWorker
) -> None:
    await store.enqueue("t", timeout_seconds=1)
    await worker.claim_one()
    await conn.execute("update pqlite.jobs set locked_at = locked_at - interval '30 days'")

    assert await judge.engine.reap(judge.id) == []
    assert await store.reap_stale(default_stale_after=timedelta(seconds=1)) == 0


# Who may judge


@pytest.mark.parametrize(
    "make_unfit",
    [
        "update pqlite.workers set steady_since = now() - interval '7 s' where id = $1",
        "update pqlite.workers set renewed_at = now() - interval '7 s' where id = $1",
        "update pqlite.workers set dead_at = now() where id = $1",
        "delete from pqlite.workers where id = $1",
    ],
)
async def test_nobody_is_judged_by_a_worker_that_has_not_itself_renewed_steadily(
    store: PgJobStore, conn: asyncpg.Connection, judge: RegisteredWorker, worker: RegisteredWorker, make_unfit: str
) -> None:
    await store.enqueue("t")
    await worker.claim_one()
    await silence(conn, worker, 60)
    await conn.execute(make_unfit, judge.id)

    assert await judge.engine.reap(judge.id) == []
    assert not await is_dead(conn, worker)


async def test_a_gap_between_renewals_restarts_the_time_before_a_worker_may_judge(
    store: PgJobStore, conn: asyncpg.Connection, judge: RegisteredWorker, worker: RegisteredWorker
) -> None:
    """After an outage everybody has been silent; those who come back must not be killed by the first."""
    await store.enqueue("t")
    await worker.claim_one()
    for everybody in (judge, worker):
        await silence(conn, everybody, 60)

    await judge.engine.renew(judge.id, LEASE, JUDGES_KEY, deadline=5.0)
    assert await judge.engine.reap(judge.id) == []

    await conn.execute("update pqlite.workers set steady_since = steady_since - interval '9 s' where id = $1", judge.id)
    assert len(await judge.engine.reap(judge.id)) == 1


async def test_renewals_without_a_gap_keep_a_worker_fit_to_judge(
    conn: asyncpg.Connection, judge: RegisteredWorker
) -> None:
    steady = "select steady_since from pqlite.workers where id = $1"
    before = await conn.fetchval(steady, judge.id)

    for _ in range(2):
        await judge.engine.renew(judge.id, LEASE, JUDGES_KEY, deadline=5.0)

    assert await conn.fetchval(steady, judge.id) == before


async def test_a_new_connection_restarts_the_time_before_a_worker_may_judge(
    store: PgJobStore, conn: asyncpg.Connection, judge: RegisteredWorker, worker: RegisteredWorker
) -> None:
    """Whatever lies between may have cut every worker's connection, and freed every lock."""
    await store.enqueue("t")
    await worker.claim_one()
    await silence(conn, worker, 60)
    await judge.engine.link.close()

    await judge.engine.renew(judge.id, LEASE, JUDGES_KEY, deadline=5.0)
    assert await judge.engine.reap(judge.id) == []


async def test_who_has_no_lock_judges_by_leases_alone_and_over_any_connection(
    store: PgJobStore, conn: asyncpg.Connection, register: Register
) -> None:
    """Behind a pooler no worker has a connection of its own, so that none can tell whether all locks were lost."""
    judge, killed = await register(), await register(lock_key=KEY)
    await make_steady(conn, judge)
    await store.enqueue("t")
    job = await killed.claim_one()
    await silence(conn, killed, 19)
    assert await judge.engine.reap(judge.id) == []
    assert not await is_dead(conn, killed)
    await silence(conn, killed, 2)

    await judge.engine.link.close()

    assert [taken.id for taken in await judge.engine.reap(judge.id)] == [job.id]
    await judge.engine.link.close()
    steady = "select steady_since from pqlite.workers where id = $1"
    before = await conn.fetchval(steady, judge.id)
    await judge.engine.renew(judge.id, LEASE, None, deadline=5.0)
    assert await conn.fetchval(steady, judge.id) == before


async def test_nobody_is_judged_past_an_epoch(
    store: PgJobStore, conn: asyncpg.Connection, judge: RegisteredWorker, worker: RegisteredWorker
) -> None:
    """A restart of the server frees all locks, perhaps between two renewals."""
    await store.enqueue("t")
    await worker.claim_one()
    await silence(conn, worker, 60)
    await conn.execute("truncate pqlite.epoch")  # as a crash does

    assert await judge.engine.reap(judge.id) == []
    await judge.engine.renew(judge.id, LEASE, JUDGES_KEY, deadline=5.0)
    assert await judge.engine.reap(judge.id) == []
    await make_steady(conn, judge)
    assert len(await judge.engine.reap(judge.id)) == 1


async def test_a_worker_may_judge_over_any_connection(
    store: PgJobStore, conn: asyncpg.Connection, judge: RegisteredWorker, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    await worker.claim_one()
    await silence(conn, worker, 60)

    assert len(await worker.engine.reap(judge.id)) == 1


@pytest.mark.parametrize("lock", ["free", "held by a new session"])
async def test_a_worker_whose_own_session_was_lost_takes_no_free_lock_for_a_death(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect, register: Register, lock: str
) -> None:
    """An outage of the network ends the sessions of all workers; some connect again later than others."""
    judge, late = await register(lock_key=JUDGES_KEY), await register(lock_key=KEY)
    await make_steady(conn, judge)
    await silence(conn, late, 9)
    if lock == "held by a new session":
        await silence(conn, judge, 3)
        await hold(await connect(), JUDGES_KEY)

    await judge.engine.reap(judge.id)
    assert not await is_dead(conn, late)

    await silence(conn, late, 12)
    await judge.engine.reap(judge.id)
    assert await is_dead(conn, late)  # its lease has passed


# Who may judge because others might


async def steady_for(conn: asyncpg.Connection, worker: RegisteredWorker) -> float:
    sql = "select extract(epoch from clock_timestamp() - steady_since)::float8 from pqlite.workers where id = $1"
    return float(await conn.fetchval(sql, worker.id))


@pytest.mark.parametrize("fate", ["lives", "is dead"])
async def test_a_new_worker_judges_at_once_if_another_renewed_steadily_until_now(
    store: PgJobStore,
    conn: asyncpg.Connection,
    connect: Connect,
    judge: RegisteredWorker,
    register: Register,
    fate: str,
) -> None:
    """No process of a crash loop lives for 8 s."""
    killed = await register(lock_key=KEY)
    await store.enqueue("t")
    job = await killed.claim_one()
    await silence(conn, killed, 9)
    await silence(conn, judge, 3)
    if fate == "is dead":
        await declare_dead(conn, judge)

    await hold(await connect(), KEY + 9)
    heir = await register(lock_key=KEY + 9)

    assert await steady_for(conn, heir) > 59
    assert await heir.engine.next_death(heir.id) < 0
    assert [taken.id for taken in await heir.engine.reap(heir.id)] == [job.id]


async def test_a_chain_of_workers_that_each_live_for_a_moment_makes_a_judge(
    conn: asyncpg.Connection, register: Register
) -> None:
    for number in range(3):
        await register(lock_key=number)
        await conn.execute(
            "update pqlite.workers set renewed_at = renewed_at - interval '3 s', "
            "steady_since = steady_since - interval '3 s'"
        )

    assert 9 < await steady_for(conn, await register(lock_key=3)) < 10


@pytest.mark.parametrize(
    "broken",
    [
        "update pqlite.workers set renewed_at = now() - interval '5 s'",
        "update pqlite.workers set lock_key = null",
        "update pqlite.workers set epoch = null",
        "truncate pqlite.epoch",
        "update pqlite.workers set epoch = split_part(epoch, ' ', 1) || ' 1700000000.5'",
    ],
    ids=["a gap", "no lock", "of an older release", "a crash", "a restart"],
)
async def test_a_new_worker_inherits_nothing_past_a_gap_an_epoch_or_from_a_worker_without_a_lock(
    conn: asyncpg.Connection, judge: RegisteredWorker, register: Register, broken: str
) -> None:
    await conn.execute(broken)

    assert await steady_for(conn, await register(lock_key=KEY)) < 5


async def test_a_new_worker_without_a_lock_inherits_nothing(
    conn: asyncpg.Connection, judge: RegisteredWorker, register: Register
) -> None:
    assert await steady_for(conn, await register()) < 5


async def test_a_worker_that_gets_its_lock_back_must_be_steady_anew_before_it_judges(
    conn: asyncpg.Connection, connect: Connect, register: Register
) -> None:
    await hold(await connect(), JUDGES_KEY)
    judge, killed = await register(), await register(lock_key=KEY)
    await make_steady(conn, judge)
    await silence(conn, killed, 10)

    await judge.engine.renew(judge.id, LEASE, JUDGES_KEY, deadline=5.0)
    await judge.engine.reap(judge.id)
    assert not await is_dead(conn, killed)

    await make_steady(conn, judge)
    await judge.engine.reap(judge.id)
    assert await is_dead(conn, killed)


async def test_a_worker_never_judges_itself(conn: asyncpg.Connection, judge: RegisteredWorker) -> None:
    await conn.execute("update pqlite.workers set lease_until = now() - interval '1 hour'")

    assert await judge.engine.reap(judge.id) == []
    assert not await is_dead(conn, judge)


async def test_what_a_worker_marked_dead_still_holds_is_taken_over_by_anybody(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    job = await worker.claim_one()
    await declare_dead(conn, worker)

    assert [taken.id for taken in await worker.engine.reap("nobody")] == [job.id]


# What becomes of its jobs


async def test_a_job_that_kills_its_workers_ends_failed_at_max_attempts(
    store: PgJobStore, conn: asyncpg.Connection, judge: RegisteredWorker, register: Register
) -> None:
    job_id = await store.enqueue("poison", max_attempts=3)
    for attempt in range(1, 4):
        victim = await register()
        assert (await victim.claim_one()).attempts == attempt
        await silence(conn, victim, 60)
        [taken] = await judge.engine.reap(judge.id)
        assert taken.status == ("READY" if attempt < 3 else "FAILED")

    job = await store.get(job_id)
    assert (job.status, job.attempts, job.crashes, len(job.errors)) == (JobStatus.FAILED, 3, 3, 3)
    assert job.finished_at is not None


async def test_an_at_most_once_job_whose_worker_died_is_failed(
    store: PgJobStore, conn: asyncpg.Connection, judge: RegisteredWorker, worker: RegisteredWorker
) -> None:
    await store.enqueue("t", max_attempts=1)
    await worker.claim_one()
    await silence(conn, worker, 60)

    assert [taken.status for taken in await judge.engine.reap(judge.id)] == [JobStatus.FAILED]


@pytest.mark.parametrize("max_attempts", [1, 5])
async def test_a_job_asked_to_cancel_whose_worker_died_is_cancelled(
    store: PgJobStore, conn: asyncpg.Connection, judge: RegisteredWorker, worker: RegisteredWorker, max_attempts: int
) -> None:
    await store.enqueue("t", max_attempts=max_attempts)
    job = await worker.claim_one()
    await store.cancel(job.id)
    await silence(conn, worker, 60)

    assert [taken.status for taken in await judge.engine.reap(judge.id)] == [JobStatus.CANCELLED]
    assert (await store.get(job.id)).finished_at is not None


async def test_a_job_is_a_suspect_until_somebody_retries_it(
    store: PgJobStore, conn: asyncpg.Connection, judge: RegisteredWorker, worker: RegisteredWorker
) -> None:
    job_id = await store.enqueue("t")
    await worker.claim_one()
    await silence(conn, worker, 60)
    await judge.engine.reap(judge.id)

    assert await judge.engine.lanes(None, None) == []
    await store.retry(job_id)
    assert len(await judge.engine.lanes(None, None)) == 1


async def test_a_job_whose_completion_is_on_its_way_is_left_to_it(
    store: PgJobStore, conn: asyncpg.Connection, judge: RegisteredWorker, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    job = await worker.claim_one()
    await silence(conn, worker, 60)

    async with conn.transaction():
        await conn.execute("select pqlite.complete($1, $2, $3, null)", worker.id, job.id, job.claims)
        assert await judge.engine.reap(judge.id) == []
        assert await is_dead(conn, worker)

    assert (await store.get(job.id)).status is JobStatus.DONE
    assert await judge.engine.reap(judge.id) == []


async def test_two_reapers_at_once_take_each_job_once(
    store: PgJobStore, conn: asyncpg.Connection, register: Register
) -> None:
    judges = [await register() for _ in range(4)]
    victims = [await register() for _ in range(5)]
    await store.enqueue_many([NewJob(job_type="t")] * 200)
    for victim in victims:
        assert len(await victim.claim(40)) == 40
        await silence(conn, victim, 60)
    for judge in judges:
        await make_steady(conn, judge)

    async with asyncio.TaskGroup() as tasks:
        reaps = [tasks.create_task(judge.engine.reap(judge.id)) for judge in judges for _ in range(3)]

    taken = [job.id for reap in reaps for job in reap.result()]
    assert len(taken) == len(set(taken)) == 200
    assert await conn.fetchval("select count(*) from pqlite.jobs where status = 'READY' and crashes = 1") == 200


async def test_a_reap_takes_no_more_than_its_limit_at_once_of_however_many_workers(
    store: PgJobStore, conn: asyncpg.Connection, register: Register
) -> None:
    await store.enqueue_many([NewJob(job_type="t")] * 5)
    for count in (3, 2):
        worker = await register()
        assert len(await worker.claim(count)) == count
        await declare_dead(conn, worker)

    for expected in (2, 2, 1, 0):
        assert len(await conn.fetch("select id from pqlite.reap('nobody', 2)")) == expected


# The rows of workers


async def test_a_dead_workers_row_stays_for_an_hour_and_as_long_as_running_jobs_name_it(
    store: PgJobStore, conn: asyncpg.Connection, connect: Connect, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    await worker.claim_one()
    locking = await connect()
    long_ago = "update pqlite.workers set dead_at = now() - interval '61 minutes'"

    await conn.execute(long_ago)
    async with locking.transaction():
        await locking.execute("select from pqlite.jobs for update")
        assert await worker.engine.reap("nobody") == []
        assert await exists(conn, worker)

    assert len(await worker.engine.reap("nobody")) == 1
    await conn.execute("update pqlite.workers set dead_at = now() - interval '59 minutes'")
    await worker.engine.reap("nobody")
    assert await exists(conn, worker)
    await conn.execute(long_ago)
    await worker.engine.reap("nobody")
    assert not await exists(conn, worker)


async def test_a_worker_without_jobs_is_gone_when_it_unregisters(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    await worker.settle(await worker.claim_one(), Verb.DONE)

    assert await worker.engine.unregister(worker.id)
    assert not await exists(conn, worker)
    assert await worker.engine.unregister(worker.id)


async def test_a_worker_that_unregisters_with_running_jobs_is_marked_dead_and_they_can_be_taken_at_once(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    job = await worker.claim_one()

    assert not await worker.engine.unregister(worker.id)

    assert await is_dead(conn, worker)
    assert [taken.id for taken in await worker.engine.reap("nobody")] == [job.id]
    assert await worker.settle(job, Verb.RETRY) is Verdict.FENCED


async def test_next_death_is_not_before_the_judge_may_judge(
    conn: asyncpg.Connection, judge: RegisteredWorker, register: Register
) -> None:
    await silence(conn, await register(), 10)
    await conn.execute("update pqlite.workers set steady_since = now() - interval '5 s' where id = $1", judge.id)

    seconds = await judge.engine.next_death(judge.id)

    assert seconds is not None
    assert 2 < seconds <= 3


async def test_next_death_is_eight_seconds_after_the_oldest_renewal_of_another(
    conn: asyncpg.Connection, judge: RegisteredWorker, register: Register
) -> None:
    assert await judge.engine.next_death(judge.id) is None
    first, second = await register(), await register()
    await silence(conn, first, 5)

    seconds = await judge.engine.next_death(judge.id)
    assert seconds is not None
    assert 2 < seconds <= 3

    await declare_dead(conn, first)
    await declare_dead(conn, second)
    assert await judge.engine.next_death(judge.id) == 8


# Holders that are no registered worker


async def age(conn: asyncpg.Connection, seconds: float) -> None:
    await conn.execute("update pqlite.jobs set locked_at = locked_at - $1::interval", timedelta(seconds=seconds))


Pickup = Callable[[str], Awaitable[int]]


@pytest.fixture
def pick_up(store: PgJobStore) -> Pickup:
    async def pick_up_one(holder: str) -> int:
        await store.enqueue("t")
        job = await store.pickup(holder)
        assert job is not None
        return job.id

    return pick_up_one


async def test_jobs_of_strangers_are_taken_over_by_age_and_never_those_of_registered_workers(
    store: PgJobStore, conn: asyncpg.Connection, register: Register, pick_up: Pickup
) -> None:
    workers = [await register() for _ in range(3)]  # worker-1 to worker-3
    await store.enqueue_many([NewJob(job_type="t")] * 3)
    kept = [(await worker.claim_one()).id for worker in workers]
    strangers = [await pick_up(holder) for holder in ("a", "worker-1", "worker-2x", "worker-3~", "zz")]
    await age(conn, 1201)

    assert await store.reap_stale() == 5

    for job_id in strangers:
        row = await fetch_job(conn, job_id)
        assert (row["status"], row["crashes"]) == ("READY", 1)
        assert row["last_error"].startswith("abandoned (")
    assert [(await fetch_job(conn, job_id))["status"] for job_id in kept] == ["RUNNING"] * 3


async def test_a_strangers_job_is_stale_after_twenty_minutes_or_its_own_timeout(
    store: PgJobStore, conn: asyncpg.Connection, pick_up: Pickup
) -> None:
    long, short = await pick_up("a"), await pick_up("b")
    await conn.execute("update pqlite.jobs set timeout_seconds = 60 where id = $1", short)

    await age(conn, 59)
    assert await store.reap_stale() == 0
    await age(conn, 2)
    assert await store.reap_stale() == 1
    assert (await store.get(short)).status is JobStatus.READY
    await age(conn, 1130)
    assert await store.reap_stale() == 0
    await age(conn, 20)
    assert await store.reap_stale() == 1
    assert (await store.get(long)).status is JobStatus.READY


@pytest.mark.parametrize("timeout", ["1e300", "1e10"])
async def test_an_absurd_timeout_does_not_end_the_reaping_of_others(
    store: PgJobStore, conn: asyncpg.Connection, pick_up: Pickup, timeout: str
) -> None:
    absurd, plain = await pick_up("a"), await pick_up("b")
    await conn.execute(f"update pqlite.jobs set timeout_seconds = {timeout} where id = $1", absurd)
    await age(conn, 1201)

    assert await store.reap_stale() == 1
    assert (await store.get(plain)).status is JobStatus.READY
    assert await conn.fetchval("select status from pqlite.jobs where id = $1", absurd) == "RUNNING"


async def test_a_dead_workers_jobs_are_not_judged_by_age_but_given_to_the_reaper(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    await worker.claim_one()
    await age(conn, 10_000)
    await declare_dead(conn, worker)

    assert await store.reap_stale() == 0
    assert len(await worker.engine.reap("nobody")) == 1
