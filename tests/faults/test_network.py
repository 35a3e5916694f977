"""Networks that swallow, cut and lose: what was done counts once, and what may be overtaken has stopped before."""

import asyncio
import time

import pytest

from pqlite import JobStatus, PgJobStore
from pqlite.events.announcer import Announcer
from pqlite.outcome import Outcome, Verb
from pqlite.worker.settler import Settler
from tests.faults.proxy import Proxy
from tests.faults.scene import Scene, side_by_side
from tests.support import until

pytestmark = pytest.mark.timeout(240)  # Scenes share the processor: alone each takes a quarter of this at most.

NOTICED = 15.0


@side_by_side
async def test_a_claim_whose_answer_is_lost_is_given_back_and_run_once(scene: Scene) -> None:
    async with Proxy(scene.dsn) as proxy:
        worker = await scene.spawn("worker", dsn=proxy.dsn)
        proxy.lose_answer("pqlite claimer", b"marked")
        jobs = [await scene.store.enqueue("effect", {"note": "marked"}, max_attempts=2) for _ in range(5)]
        scene.ids += jobs

        await scene.drained()

        audit = await scene.audit()
    rows = [await scene.row(job) for job in jobs]
    given_back = {job for line in worker.lines("released") for job in line.more["jobs"]}
    assert proxy.answers_lost == 1
    assert given_back
    assert {row["id"] for row in rows if row["claims"] == 2} == given_back
    assert [(row["status"], row["attempts"], row["crashes"]) for row in rows] == [("DONE", 1, 0)] * 5
    assert [len(audit.runs_of(job)) for job in jobs] == [1] * 5


@side_by_side
async def test_a_settlement_whose_answer_is_lost_counts(scene: Scene) -> None:
    async with Proxy(scene.dsn) as proxy:
        worker = await scene.spawn("worker", dsn=proxy.dsn)
        first = await scene.enqueue("slow")
        await scene.drained()
        # An answer without rows: everything was written.
        proxy.lose_answer("pqlite settler", b"SELECT 0")
        second = await scene.enqueue("slow")
        await scene.drained()

        audit = await scene.audit()
    assert proxy.answers_lost == 1
    assert worker.lines("refused") == []
    assert [len(audit.runs_of(job)) for job in (first, second)] == [1, 1]


async def test_the_last_flush_outlives_its_connection(scene: Scene) -> None:
    async with Proxy(scene.dsn) as proxy, PgJobStore(dsn=proxy.dsn) as store:
        engine = store.engine("settler")
        settler = Settler(
            engine=engine,
            worker_id="w",
            keep_done=True,
            announce=Announcer([]),
            limit=10,
            has_room=lambda: None,
            made_ready=lambda outcomes: None,
            settled=lambda job_ids: None,
        )
        await scene.enqueue("slow")
        job = await store.pickup("w")
        assert job is not None
        proxy.lose_answer("pqlite settler", b"SELECT 0")

        settler.submit(Outcome(job, Verb.DONE))
        undelivered = await settler.flush(5.0)

        await engine.link.close()
    assert proxy.answers_lost == 1
    assert undelivered == 0
    await scene.audit()


@side_by_side
async def test_a_completion_whose_commit_is_not_confirmed_is_looked_up_and_counts_once(scene: Scene) -> None:
    async with Proxy(scene.dsn) as proxy:
        await scene.spawn("worker", dsn=proxy.dsn)
        proxy.lose_answer("pqlite", b"COMMIT")
        job = await scene.enqueue("effect")

        await scene.drained()

        audit = await scene.audit()
    row = await scene.row(job)
    assert proxy.answers_lost == 1
    assert (row["status"], row["attempts"]) == ("DONE", 1)
    assert len(audit.runs_of(job)) == 1


@side_by_side
async def test_a_completion_in_a_black_hole_ends_with_its_timeout(scene: Scene) -> None:
    async with Proxy(scene.dsn) as proxy:
        await scene.spawn("worker", dsn=proxy.dsn, concurrency=1)
        await scene.line("end", job=await scene.enqueue("effect"))
        proxy.black_hole("pqlite")
        job = await scene.enqueue("effect", timeout_seconds=2.0)

        ended = await scene.line("end", job=job, patience=NOTICED)

        await proxy.heal()
        await scene.drained()
        audit = await scene.audit()
    assert "CancelledError" in ended.more["error"]
    assert len(audit.runs_of(job)) == 2


@side_by_side
async def test_a_claimers_black_holed_connection_is_noticed(scene: Scene) -> None:
    async with Proxy(scene.dsn) as proxy:
        await scene.spawn("worker", dsn=proxy.dsn)
        await scene.enqueue("slow")
        await scene.drained()
        lost = time.time()
        proxy.black_hole(new_ones=False, purpose="pqlite claimer")
        job = await scene.enqueue("slow")

        started = await scene.line("start", job=job, patience=NOTICED + 5)

        await scene.drained()
        await proxy.heal()
        audit = await scene.audit()
    assert started.at - lost < NOTICED
    assert len(audit.runs_of(job)) == 1


@side_by_side
async def test_a_settlers_black_holed_connection_is_noticed(scene: Scene) -> None:
    async with Proxy(scene.dsn) as proxy:
        await scene.spawn("worker", dsn=proxy.dsn)
        await scene.enqueue("slow")
        await scene.drained()
        lost = time.time()
        proxy.black_hole(new_ones=False, purpose="pqlite settler")
        job = await scene.enqueue("slow")

        await scene.drained(patience=NOTICED + 5)
        written = time.time()

        await proxy.heal()
        audit = await scene.audit()
    assert written - lost < NOTICED
    assert len(audit.runs_of(job)) == 1


@side_by_side
async def test_a_sentinels_black_holed_connection_is_noticed_and_costs_no_job(scene: Scene) -> None:
    async with Proxy(scene.dsn) as proxy:
        worker = await scene.spawn("worker", dsn=proxy.dsn)
        await scene.spawn("onlooker")
        job = await scene.enqueue("slow", seconds=25.0)
        lost = time.time()
        proxy.black_hole(new_ones=False, purpose="pqlite sentinel")

        async def renewed() -> bool:
            sql = (
                "select from pqlite.workers where label = 'worker' and renewed_at > to_timestamp($1) + interval '3.5 s'"
            )
            return bool(await scene.fetch(sql, lost))

        await until(renewed, "the lease to be renewed", NOTICED + 5)
        noticed = time.time()

        await scene.drained()
        await proxy.heal()
        audit = await scene.audit()
    assert noticed - lost < NOTICED
    assert worker.lines("fenced") == []
    assert len(audit.runs_of(job)) == 1


@side_by_side
async def test_a_worker_that_is_cut_off_stops_before_another_starts_its_jobs_and_comes_back(scene: Scene) -> None:
    async with Proxy(scene.dsn) as proxy:
        cut_off = await scene.spawn("cut-off", dsn=proxy.dsn)
        job = await scene.enqueue("slow", seconds=60.0)
        await scene.line("start", pid=cut_off.pid, job=job)
        heir = await scene.spawn("heir")
        lost = time.time()
        proxy.black_hole()

        stopped = await scene.line("end", pid=cut_off.pid, job=job, patience=25.0)
        started = await scene.line("start", pid=heir.pid, job=job, patience=35.0)

        await proxy.heal()
        await scene.line("registered", pid=cut_off.pid, count=2)
        await scene.store.cancel(job)
        await scene.line("end", pid=heir.pid, job=job)
        await heir.stop()
        later = await scene.enqueue("slow")
        await scene.line("end", pid=cut_off.pid, job=later)
        await scene.drained()
        await scene.audit()
    assert stopped.at < started.at
    assert stopped.at - lost < 20.0
    assert started.at - lost < 30.0


@side_by_side
async def test_a_short_black_hole_costs_nothing(scene: Scene) -> None:
    async with Proxy(scene.dsn) as proxy:
        worker = await scene.spawn("worker", dsn=proxy.dsn)
        jobs = await scene.enqueue_many("slow", 5, seconds=6.0)
        await scene.line("start", count=5)
        await scene.spawn("onlooker")

        proxy.black_hole()
        await asyncio.sleep(4.0)
        await proxy.heal()

        await scene.drained()
        audit = await scene.audit()
    assert worker.lines("fenced") == []
    assert [len(audit.runs_of(job)) for job in jobs] == [1] * 5


@side_by_side
async def test_cut_connections_of_every_kind_cost_no_job_its_attempt(scene: Scene) -> None:
    async with Proxy(scene.dsn) as proxy:
        worker = await scene.spawn("worker", dsn=proxy.dsn)
        jobs = await scene.enqueue_many("slow", 2000, seconds=0.02, max_attempts=1)

        for purpose in ("pqlite claimer", "pqlite settler", "pqlite sentinel") * 4:
            started = len(scene.reader.lines("start"))
            proxy.reset(purpose)
            await scene.line("start", count=min(started + 50, len(jobs)))

        await scene.drained()
        await scene.audit()
    statuses = await scene.fetch("select status, attempts, crashes, count(*) from pqlite.jobs group by 1, 2, 3")
    assert [tuple(row) for row in statuses] == [(JobStatus.DONE, 1, 0, 2000)]
    assert worker.lines("fenced") == []


@side_by_side
async def test_a_slow_network_loses_nothing(scene: Scene) -> None:
    async with Proxy(scene.dsn) as proxy:
        proxy.delay = 0.3
        await scene.spawn("worker", dsn=proxy.dsn)
        await scene.enqueue_many("effect", 30)

        await scene.drained()

        audit = await scene.audit()
    assert len(audit.runs) == 30
