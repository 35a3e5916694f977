"""Servers that crash, restart and stay away: the host app serves on, and what was accepted stays accepted."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI, Response

from pqlite import JobContext, PgJobStore, Worker
from pqlite.embedded import EmbeddedPostgres
from pqlite.events import JobAdopted, JobStarted
from tests.faults.process import QuickBackoff, handlers
from tests.faults.scene import Scene
from tests.support import EventLog, until

pytestmark = pytest.mark.timeout(240)  # Scenes share the processor: alone each takes a quarter of this at most.

Breakable = Callable[..., AbstractAsyncContextManager[tuple[EmbeddedPostgres, Scene]]]


async def test_a_claim_that_a_crash_undid_is_adopted_and_its_job_runs_once(breakable: Breakable) -> None:
    # Nothing flushes a claim for 10 s but somebody else's commit, and the crash leaves no time for one.
    async with breakable(wal_writer_delay="10s") as (server, scene):
        crash = Crash(server)
        runs: list[int] = []
        may_end = asyncio.Event()

        async def once(ctx: JobContext) -> None:
            crash(ctx.job.id)
            runs.append(ctx.job.claims)
            await may_end.wait()

        log = EventLog()
        worker = Worker(scene.store, {"once": once}, observers=[log])
        async with worker:
            job = await scene.store.enqueue("once", max_attempts=2)
            scene.ids.append(job)

            async def claimed_again() -> bool:
                return bool(await scene.fetch("select from pqlite.jobs where id = $1 and status = 'RUNNING'", job))

            await until(lambda: crash.found, "the crash")
            await until(claimed_again, "the second claim")
            await log.wait_for(JobAdopted)
            may_end.set()
            await scene.drained()

        lost, row = crash.found[0], await scene.row(job)
        assert (lost["status"], lost["claims"], lost["attempts"]) == ("READY", 0, 0)
        assert (row["status"], row["claims"], row["attempts"]) == ("DONE", 1, 1)
        assert runs == [1]
        await scene.audit()


async def test_the_end_of_an_outage_longer_than_the_lease_kills_nobody(breakable: Breakable) -> None:
    async with breakable() as (server, scene):
        processes = [await scene.spawn(f"worker-{n}", lease=12, concurrency=4) for n in range(2)]
        await scene.enqueue_many("slow", 8, seconds=20.0, max_attempts=2)
        await scene.line("start", count=8)
        await scene.enqueue_many("effect", 40, seconds=0.5, max_attempts=5)

        async with server.outage("fast"):
            await scene.line("end", count=8, patience=20.0)  # given up before the lease ends
            await asyncio.sleep(6.0)  # ... and the lease ends

        for process in processes:
            await scene.line("registered", pid=process.pid, count=2)
        await scene.drained()
        await scene.audit()
        rows = await scene.fetch("select status, max(attempts), max(crashes) from pqlite.jobs group by 1")
        dead = await scene.fetch("select from pqlite.workers where dead_at is not null")
        assert [tuple(row) for row in rows] == [("DONE", 1, 0)]
        assert dead == []
        assert scene.reader.lines("took over") == []


async def test_an_app_serves_and_loses_nothing_while_its_server_crashes_again_and_again(breakable: Breakable) -> None:
    async with breakable() as (server, scene):
        await scene.spawn("beside", concurrency=5)
        store = PgJobStore(dsn=scene.dsn)
        worker = Worker(
            store, handlers(scene.ledger), worker_id="app", backoff=QuickBackoff(), observers=[scene.ledger]
        )
        app = FastAPI(lifespan=worker.lifespan)

        @app.get("/")
        async def index() -> str:
            return "alive"

        @app.post("/jobs")
        async def create(response: Response) -> int:
            try:
                return await store.enqueue("effect", {"seconds": 0.02}, max_attempts=50)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                response.status_code = 503
                return 0

        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client,
        ):
            ends = asyncio.Event()
            visitors = asyncio.create_task(_visit(client, ends))
            producers = [asyncio.create_task(_produce(client, ends)) for _ in range(4)]
            for _ in range(3):
                accepted = len(scene.reader.lines("end"))
                await scene.line("end", count=accepted + 200, patience=30.0)
                await server.restart("immediate")
            ends.set()
            slowest = await visitors
            for producer in producers:
                scene.ids += await producer
            await scene.drained()
        # Requests whose answer the crash took may have left a job, too.
        scene.ids = [row["id"] for row in await scene.fetch("select id from pqlite.jobs")]
        await scene.audit(overlaps=True)
        assert slowest < 1.0
        assert len(scene.ids) > 600
        assert {row["status"] for row in await scene.fetch("select status from pqlite.jobs")} == {"DONE"}


async def test_workers_started_without_a_server_begin_when_it_comes(breakable: Breakable) -> None:
    async with breakable() as (server, scene):
        job = await scene.enqueue("effect")

        async with server.outage("immediate"):
            process = await scene.spawn("early", ready=False)
            await until(lambda: "cannot be reached" in process.log.read_text(), "the warning")

        await scene.drained()
        audit = await scene.audit()
        assert len(audit.runs_of(job)) == 1


async def test_a_crash_of_the_server_makes_no_process_a_zombie(breakable: Breakable) -> None:
    async with breakable() as (server, scene):
        for number in range(2):
            await scene.spawn(f"worker-{number}", concurrency=2)
        jobs = await scene.enqueue_many("slow", 4, seconds=14.0, max_attempts=3)
        await scene.line("start", count=4)

        await _flushed(scene)
        await server.restart("immediate")

        # Every session lock has vanished. Long enough for each to judge the other, if it were allowed to.
        await scene.drained()
        audit = await scene.audit()
        assert scene.reader.lines("fenced") == []
        assert [len(audit.runs_of(job)) for job in jobs] == [1] * 4


async def test_who_has_just_reconnected_judges_nobody(scene: Scene) -> None:
    """After a short outage the first to come back finds every lock free, and its own renewals hardly interrupted."""
    lease = timedelta(seconds=20)
    judge, late = scene.store.engine("judge"), scene.store.engine("late")
    await judge.register("judge", "judge", 4712, lease, {})
    await late.register("late", "late", 4711, lease, {})
    await scene.execute(
        "update pqlite.workers set steady_since = now() - interval '1 min'; "
        "update pqlite.workers set renewed_at = now() - interval '9 s' where id = 'late'"
    )
    job = await scene.enqueue("slow")

    await judge.link.close()

    for _ in range(2):
        await judge.reap("judge")
        assert await scene.fetch("select from pqlite.workers where id = 'late' and dead_at is null")
        await judge.renew("judge", lease, 4712, deadline=5.0)
    await late.renew("late", lease, 4711, deadline=5.0)
    for engine, holder in ((judge, "judge"), (late, "late")):
        assert await engine.unregister(holder)
        await engine.link.close()
    await scene.store.cancel(job)
    await scene.audit()


async def test_two_workers_with_one_label_in_one_process_are_two_workers(scene: Scene) -> None:
    logs = EventLog(), EventLog()
    works = handlers(scene.ledger)
    first, second = (
        Worker(scene.store, works, worker_id="twin", concurrency=2, observers=[scene.ledger, log]) for log in logs
    )
    async with first:
        jobs = await scene.enqueue_many("slow", 4, seconds=1.0)
        await scene.line("start", count=2)
        async with second:
            await scene.line("start", count=4)
            holders = {row[0] for row in await scene.fetch("select locked_by from pqlite.jobs")}
            registered = {row[0] for row in await scene.fetch("select id from pqlite.workers where label = 'twin'")}
            await scene.drained()

    audit = await scene.audit()
    assert len(holders) == 2
    assert holders == registered
    assert [len(log.of(JobStarted)) for log in logs] == [2, 2]
    assert [len(audit.runs_of(job)) for job in jobs] == [1] * 4


class Crash:
    """Crashes the server as soon as a job starts, and looks at its row before anybody goes on.

    Called by the handler, in the first step of its task. The worker's loop stands still meanwhile: no statement of the
    claimer's can follow the claim.
    """

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server
        self.found: list[asyncpg.Record] = []

    def __call__(self, job_id: int) -> None:
        if not self.found:
            assert self._server.pid is not None
            os.kill(self._server.pid, signal.SIGQUIT)
            thread = threading.Thread(target=lambda: asyncio.run(self._look(job_id)))
            thread.start()
            thread.join()

    async def _look(self, job_id: int) -> None:
        await self._server.restart("immediate")
        conn = await asyncpg.connect(self._server.dsn, server_settings={"application_name": "auditor"})
        try:
            self.found += await conn.fetch("select * from pqlite.jobs where id = $1", job_id)
        finally:
            await conn.close()


async def _visit(client: httpx.AsyncClient, ends: asyncio.Event) -> float:
    """Visit the app all the time; return how long the slowest answer took."""
    slowest = 0.0
    while not ends.is_set():
        begins = time.monotonic()
        answer = await client.get("/")
        assert (answer.status_code, answer.json()) == (200, "alive")
        slowest = max(slowest, time.monotonic() - begins)
        await asyncio.sleep(0.02)
    return slowest


async def _produce(client: httpx.AsyncClient, ends: asyncio.Event) -> list[int]:
    ids = []
    while not ends.is_set():
        answer: Any = await client.post("/jobs")
        if answer.status_code == 200:
            ids.append(answer.json())
        else:
            await asyncio.sleep(0.05)
    return ids


async def _flushed(scene: Scene) -> None:
    """Make sure that no claim so far can be undone by a crash."""
    await scene.execute("create table public.flushed ()")
