"""What a worker claims, when, and in what order."""

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from pqlite import IdlePollPolicy, JobContext, JobStatus, LoopErrorPolicy, PgJobStore
from pqlite.events import ClaimsReleased, JobEnded, JobStarted, LoopFailed, LoopRecovered, WorkerRegistered
from pqlite.worker import lanes
from tests.support import EventLog, ended, until
from tests.worker.conftest import Run


class AtOnce(LoopErrorPolicy):
    def next_sleep(self, consecutive_errors: int) -> float:
        return 0.0


class Never(IdlePollPolicy):
    """Sleeps for ever when idle: only a wake-up, or a job that becomes due, ends it."""

    def next_sleep(self, empty_streak: int) -> float:
        return 3600.0


async def idle(conn: asyncpg.Connection) -> None:
    """Return when the worker has asked to be notified: it sleeps, or is about to."""
    await until(lambda: conn.fetchval("select last_value > 0 from pqlite.wake_until"), "the worker to sleep")


async def test_higher_priority_runs_sooner_and_equal_priority_in_order_of_time(run: Run, store: PgJobStore) -> None:
    order: list[int] = []

    async def handler(ctx: JobContext) -> None:
        order.append(ctx.job.payload)

    for number, (priority, queue) in enumerate([(0, "a"), (5, "b"), (-5, "a"), (5, "a"), (0, "a"), (5, "b")]):
        await store.enqueue("t", number, priority=priority, queue=queue)
    async with run({"t": handler}, concurrency=1):
        await until(lambda: len(order) == 6)

    assert set(order[:3]) == {1, 3, 5}
    assert order.index(1) < order.index(5)
    assert order[3:] == [0, 4, 2]


async def test_no_more_jobs_are_claimed_than_can_run(run: Run, store: PgJobStore, log: EventLog) -> None:
    go_on = asyncio.Event()

    async def handler(_ctx: JobContext) -> None:
        await go_on.wait()

    await store.enqueue_many([{"job_type": "t"} for _ in range(10)])
    async with run({"t": handler}, concurrency=3):
        await log.wait_for(JobStarted, count=3)
        async with store.connection() as conn:
            running = await conn.fetchval("select count(*) from pqlite.jobs where status = 'RUNNING'")
        go_on.set()
        await log.wait_for(JobEnded, count=10)

    assert running == 3


async def test_an_idle_worker_is_woken_by_an_enqueue_of_its_own_process(
    run: Run, store: PgJobStore, conn: asyncpg.Connection
) -> None:
    async with run({"t": lambda _ctx: None}, idle_policy=Never()):
        await idle(conn)
        job = await ended(store, await store.enqueue("t"))

    assert job.status is JobStatus.DONE


async def test_an_idle_worker_is_woken_by_a_plain_insert_of_another_client(
    run: Run, store: PgJobStore, conn: asyncpg.Connection
) -> None:
    async with run({"t": lambda _ctx: None}, idle_policy=Never()):
        await idle(conn)
        job_id = await conn.fetchval("insert into pqlite.jobs (job_type) values ('t') returning id")
        job = await ended(store, job_id)

    assert job.status is JobStatus.DONE


async def test_a_worker_is_woken_by_jobs_of_its_own_queues_only(
    run: Run, dsn: str, store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await conn.execute("create sequence counted")
    await conn.execute("""
        alter function pqlite.arm(int, text[]) rename to real_arm;
        create function pqlite.arm(p_ms int, p_queues text[]) returns timestamptz language plpgsql as $$
        begin perform nextval('counted'); return pqlite.real_arm(p_ms, p_queues); end $$""")
    claims = "select last_value from counted"
    async with run({"t": lambda _ctx: None}, queues=["mine"], idle_policy=Never()):
        await idle(conn)
        await until(lambda: conn.fetchval(f"{claims} where is_called"), "the worker to sleep")
        before = await conn.fetchval(claims)
        await conn.execute("select pqlite.real_arm(60000, null)")  # so that everybody is notified of everything
        async with PgJobStore(dsn) as other:
            for _ in range(20):
                await other.enqueue("t", queue="other")
            asleep = await conn.fetchval(claims)
            job = await ended(store, await other.enqueue("t", queue="mine"))

    assert asleep - before <= 1  # the second look before it sleeps
    assert job.status is JobStatus.DONE


async def test_a_worker_that_is_woken_for_nothing_again_and_again_stops_listening_for_a_while(
    run: Run, dsn: str, store: PgJobStore, conn: asyncpg.Connection
) -> None:
    async with run({"t": lambda _ctx: None}, idle_policy=Never()) as worker:
        await idle(conn)
        claimer = worker._running._parts.claimer  # type: ignore[union-attr]
        async with PgJobStore(dsn) as other:

            async def woken_for_nothing() -> bool:
                await other.enqueue("another type")
                return not claimer.wake_up()

            await until(woken_for_nothing, "the worker to stop listening")
            job = await ended(store, await other.enqueue("t"))
            await until(claimer.wake_up, "the worker to listen again")

    assert job.status is JobStatus.DONE


async def test_an_idle_worker_wakes_when_a_job_becomes_due(run: Run, store: PgJobStore) -> None:
    job_id = await store.enqueue("t", run_after=timedelta(seconds=0.3))
    async with run({"t": lambda _ctx: None}, idle_policy=Never()):
        job = await ended(store, job_id)

    assert job.finished_at is not None
    assert timedelta(0) <= job.finished_at - job.run_after < timedelta(seconds=1)


async def test_a_job_retried_by_hand_wakes_an_idle_worker(
    run: Run, store: PgJobStore, conn: asyncpg.Connection
) -> None:
    job_id = await store.enqueue("t", run_after=timedelta(hours=1))
    async with run({"t": lambda _ctx: None}, idle_policy=Never()):
        await idle(conn)
        assert await conn.fetchval("select pqlite.retry($1)", job_id) == "READY"
        job = await ended(store, job_id)

    assert job.status is JobStatus.DONE


async def test_a_busy_queue_notifies_nobody(store: PgJobStore, conn: asyncpg.Connection) -> None:
    heard: list[object] = []
    await conn.add_listener("pqlite_wake", lambda *args: heard.append(args))

    await store.enqueue("t")
    await conn.execute("select pqlite.arm(60000)")
    await store.enqueue("t")
    await until(lambda: heard, "the notification")

    assert len(heard) == 1


@pytest.mark.parametrize(("late", "patience"), [("3 s", 3.0), ("1 hour", 10.0)])
async def test_a_job_behind_the_watermark_is_found(
    run: Run, store: PgJobStore, conn: asyncpg.Connection, late: str, patience: float
) -> None:
    async with run({"t": lambda _ctx: None}):
        await ended(store, await store.enqueue("t"))
        # Committed late: due before the job that was just claimed, in the same lane.
        sql = f"insert into pqlite.jobs (job_type, run_after) values ('t', now() - interval '{late}') returning id"
        job = await ended(store, await conn.fetchval(sql), patience)

    assert job.status is JobStatus.DONE


async def test_a_lane_never_seen_before_is_found_within_a_second_while_the_worker_is_busy(
    run: Run, store: PgJobStore, log: EventLog
) -> None:
    async def endless(ctx: JobContext) -> None:
        await asyncio.sleep(0.001)
        await ctx.store.enqueue("endless")

    async with run({"endless": endless, "t": lambda _ctx: None}, concurrency=2):
        await store.enqueue_many([{"job_type": "endless"} for _ in range(20)])
        await log.wait_for(JobEnded, count=20)
        job = await ended(store, await store.enqueue("t", queue="new"), patience=3.0)

    assert job.finished_at is not None
    assert job.finished_at - job.created_at < timedelta(seconds=1.5)


async def test_only_the_given_queues_are_served(run: Run, store: PgJobStore) -> None:
    other = await store.enqueue("t", queue="other")
    async with run({"t": lambda _ctx: None}, queues=["mine"]):
        await ended(store, await store.enqueue("t", queue="mine"))
        job = await store.get(other)

    assert job.status is JobStatus.READY


async def test_as_many_lanes_as_jobs_are_worked_off(
    run: Run, store: PgJobStore, log: EventLog, conn: asyncpg.Connection
) -> None:
    async def noop(_ctx: JobContext) -> None:
        pass

    types = [f"t{n}" for n in range(20)]
    await conn.execute(
        "insert into pqlite.jobs (queue, job_type, priority) select 'q' || n, 't' || n % 20, n % 3 "
        "from generate_series(1, 3000) n"
    )
    async with run(dict.fromkeys(types, noop), concurrency=20):
        await log.wait_for(JobEnded, count=3000)

    priorities = [event.outcome.job.priority for event in log.of(JobEnded)]
    assert priorities[:900] == [2] * 900


async def test_suspects_run_in_half_of_the_slots_beside_ordinary_jobs(run: Run, store: PgJobStore) -> None:
    running: set[int] = set()
    worst = 0

    async def suspect(ctx: JobContext) -> None:
        nonlocal worst
        running.add(ctx.job.id)
        worst = max(worst, len(running))
        await asyncio.sleep(0.005)
        running.discard(ctx.job.id)

    ids = [await store.enqueue("suspect") for _ in range(10)]
    async with store.connection() as conn:
        await conn.execute("update pqlite.jobs set crashes = 1")
    async with run({"suspect": suspect, "plain": lambda _ctx: None}, concurrency=5):
        plain = await ended(store, await store.enqueue("plain"))
        jobs = [await ended(store, job_id) for job_id in ids]

    assert plain.status is JobStatus.DONE
    assert all(job.status is JobStatus.DONE for job in jobs)
    assert worst == 2


async def test_jobs_held_by_name_but_unknown_are_given_back_uncharged(
    run: Run, store: PgJobStore, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pqlite.worker.claimer.AUDIT_EVERY", 0.05)
    async with run({"t": lambda ctx: ctx.attempt}, idle_policy=IdlePollPolicy(0.05, 0.05)):
        holder = (await log.wait_for(WorkerRegistered)).holder
        async with store.connection() as conn:
            # As after a claim whose answer was lost.
            job_id = await conn.fetchval(
                "insert into pqlite.jobs (job_type, status, attempts, claims, locked_by, locked_at) "
                "values ('t', 'RUNNING', 1, 1, $1, now()) returning id",
                holder,
            )
        released = await log.wait_for(ClaimsReleased)
        job = await ended(store, job_id)

    assert list(released.job_ids) == [job_id]
    assert (job.result, job.attempts, job.claims, job.crashes) == (1, 1, 2, 0)


async def test_an_audit_that_fails_is_made_again_and_still_covers_what_it_was_to_cover(
    run: Run, store: PgJobStore, log: EventLog, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pqlite.worker.claimer.AUDIT_EVERY", 0.05)
    monkeypatch.setattr("pqlite.worker.claimer.AUDIT_MARGIN", 0.0)
    policies = {"idle_policy": IdlePollPolicy(0.05, 0.05), "loop_error_policy": AtOnce()}
    async with run({"t": lambda ctx: ctx.attempt}, **policies):
        holder = (await log.wait_for(WorkerRegistered)).holder
        await conn.execute("alter function pqlite.disown rename to later")
        await log.wait_for(LoopFailed, lambda event: event.part == "scout")
        job_id = await conn.fetchval(
            "insert into pqlite.jobs (job_type, status, attempts, claims, locked_by, locked_at) "
            "values ('t', 'RUNNING', 1, 1, $1, now()) returning id",
            holder,
        )
        await log.wait_for(LoopFailed, lambda event: event.part == "scout", count=20)
        await conn.execute("alter function pqlite.later rename to disown")
        released = await log.wait_for(ClaimsReleased)
        await ended(store, job_id)

    assert list(released.job_ids) == [job_id]


async def test_a_claim_that_was_undone_and_made_again_adopts_the_running_attempt(
    run: Run, store: PgJobStore, log: EventLog, conn: asyncpg.Connection
) -> None:
    runs = 0
    go_on = asyncio.Event()

    async def handler(_ctx: JobContext) -> int:
        nonlocal runs
        runs += 1
        await go_on.wait()
        return runs

    async with run({"t": handler}):
        job_id = await store.enqueue("t")
        await log.wait_for(JobStarted)
        # What a server crash leaves of a claim that had not reached the disk.
        await conn.execute(
            "update pqlite.jobs set status = 'READY', attempts = 0, claims = 0, locked_by = null, locked_at = null"
        )
        await store.enqueue("other")
        await until(lambda: conn.fetchval("select claims = 1 from pqlite.jobs where id = $1", job_id), "the claim")
        go_on.set()
        job = await ended(store, job_id)

    assert runs == 1
    assert (job.status, job.result, job.attempts, job.claims) == (JobStatus.DONE, 1, 1, 1)


async def test_errors_of_the_infrastructure_follow_the_loop_error_policy(
    run: Run, store: PgJobStore, log: EventLog, conn: asyncpg.Connection
) -> None:
    class Counting(LoopErrorPolicy):
        def __init__(self) -> None:
            self.asked: list[int] = []

        def next_sleep(self, consecutive_errors: int) -> float:
            self.asked.append(consecutive_errors)
            return 0.05

    policy = Counting()
    async with run(
        {"t": lambda _ctx: None}, loop_error_policy=policy, idle_policy=IdlePollPolicy(0.05, 0.05)
    ) as worker:
        await conn.execute("alter table pqlite.jobs rename to elsewhere")
        await log.wait_for(LoopFailed, lambda event: event.part == "claimer", count=2)
        trouble = worker.trouble()
        await conn.execute("alter table pqlite.elsewhere rename to jobs")
        await log.wait_for(LoopRecovered, lambda event: event.part == "claimer")
        job = await ended(store, await store.enqueue("t"))
        await until(worker.healthy, "the other loops to recover as well")

    assert {1, 2} <= set(policy.asked)
    assert "failed" in (trouble or "")
    assert job.status is JobStatus.DONE


async def test_a_claim_that_finds_its_worker_dead_does_not_forget_the_next_registration(
    run: Run, store: PgJobStore, log: EventLog, conn: asyncpg.Connection
) -> None:
    async with run({"t": lambda _ctx: None}, idle_policy=IdlePollPolicy(0.01, 0.01)) as worker:
        for count in range(2, 5):
            await log.wait_for(WorkerRegistered, count=count - 1)
            await conn.execute("update pqlite.workers set dead_at = clock_timestamp()")
            await log.wait_for(WorkerRegistered, count=count)
        job = await ended(store, await store.enqueue("t"))
        healthy = worker.healthy()

    assert job.status is JobStatus.DONE
    assert healthy


async def test_a_lost_claim_is_given_back_although_every_slot_is_taken(
    run: Run, store: PgJobStore, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pqlite.worker.claimer.AUDIT_EVERY", 0.05)
    go_on = asyncio.Event()

    async def handler(_ctx: JobContext) -> None:
        await go_on.wait()

    async with run({"t": handler}, concurrency=1):
        await store.enqueue("t")
        await log.wait_for(JobStarted)
        holder = log.of(WorkerRegistered)[0].holder
        async with store.connection() as conn:
            lost = await conn.fetchval(
                "insert into pqlite.jobs (job_type, status, attempts, claims, locked_by, locked_at) "
                "values ('t', 'RUNNING', 1, 1, $1, now()) returning id",
                holder,
            )
        released = await log.wait_for(ClaimsReleased)
        job = await store.get(lost)
        go_on.set()

    assert list(released.job_ids) == [lost]
    assert (job.status, job.attempts) == (JobStatus.READY, 0)


async def test_short_jobs_are_prefetched_and_long_ones_never_hoarded(
    run: Run, store: PgJobStore, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pqlite.worker.prefetch.MAX_WAIT_SECONDS", 0.1)
    go_on = asyncio.Event()

    async def handler(ctx: JobContext) -> None:
        if ctx.job.payload == "long":
            await go_on.wait()

    await store.enqueue_many([{"job_type": "t", "payload": "short"} for _ in range(500)])
    async with run({"t": handler}, concurrency=2):
        await log.wait_for(JobEnded, count=500)
        await store.enqueue_many([{"job_type": "t", "payload": "long"} for _ in range(50)])
        await log.wait_for(JobStarted, lambda event: event.job.payload == "long", count=2)

        async def only_two_held() -> bool:
            async with store.connection() as conn:
                sql = "select count(*) from pqlite.jobs where status = 'RUNNING'"
                return await conn.fetchval(sql) == 2

        await until(only_two_held, "the waiting jobs to be given back")
        async with store.connection() as conn:
            attempts = await conn.fetchval("select max(attempts) from pqlite.jobs where status = 'READY'")
        go_on.set()
        await log.wait_for(JobEnded, count=550)

    assert attempts == 0


async def test_a_lane_that_was_asked_for_long_and_in_vain_is_looked_for_and_its_next_job_runs(
    run: Run, store: PgJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "SLOW", 0.0)  # every claim takes long
    async with run({"t": lambda _ctx: None, "u": lambda _ctx: None}) as worker:
        known = worker._running._parts.lanes  # type: ignore[union-attr]
        await ended(store, await store.enqueue("t"))

        async def without_hope() -> bool:
            await ended(store, await store.enqueue("u"))
            return any(lane.job_type == "t" for lane in known._slow_and_empty)

        await until(without_hope)
        job = await ended(store, await store.enqueue("t"))

    assert job.status is JobStatus.DONE


async def test_only_a_second_slow_look_for_lanes_is_a_reason_to_look_less(
    run: Run, store: PgJobStore, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run({"t": lambda _ctx: None}, idle_policy=Never()) as worker:
        await idle(conn)
        claimer = worker._running._parts.claimer  # type: ignore[union-attr]
        look, rests = claimer._engine.lanes, []

        async def slow(*args: Any, **options: Any) -> Any:
            await asyncio.sleep(0.2)
            return await look(*args, **options)

        monkeypatch.setattr(claimer._engine, "lanes", slow)
        for _ in range(2):
            claimer._earliest_discovery = 0.0
            await claimer._discover()
            rests.append(claimer._min_interval())

    assert rests[0] < 1.0
    assert rests[1] >= lanes.RATION * 0.2
