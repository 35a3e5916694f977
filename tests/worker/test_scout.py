"""How jobs behind the watermarks are found, and what that must not disturb."""

import asyncio
import logging
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from pqlite import PgJobStore, Worker
from pqlite.events import JobStarted, LoopFailed, LoopRecovered, WorkerRegistered
from pqlite.store.engine import Head, Lane, Mark
from pqlite.worker import scout
from pqlite.worker.lanes import MIN_CLAIMS, RATION, Asked, Lanes
from pqlite.worker.scout import ScanTimer, Scout
from tests.support import EventLog, ended, until
from tests.worker.conftest import Run

SLOW_SWEEPS = """
alter function pqlite.lanes rename to quick_lanes;
create function pqlite.lanes(
  p_queues text[], p_types text[], p_queue text[] default '{}', p_type text[] default '{}',
  p_priority int[] default '{}', p_after timestamptz[] default '{}', p_after_id bigint[] default '{}',
  p_limit int default 10000, p_versions jsonb default null)
returns table (queue text, job_type text, priority int, run_after timestamptz, id bigint) language plpgsql as $$
begin
  if p_queue = '{}' and exists (select from pqlite.jobs where status <> 'READY') then
    perform pg_sleep(2);
  end if;
  return query select * from pqlite.quick_lanes(p_queues, p_types, p_queue, p_type, p_priority, p_after, p_after_id);
end $$
"""


async def test_claims_go_on_while_a_sweep_is_slow(run: Run, store: PgJobStore, conn: asyncpg.Connection) -> None:
    sweep = "select query_start from pg_stat_activity where query like '%pqlite.lanes%' and wait_event = 'PgSleep'"
    async with run({"t": lambda _ctx: None}):
        for _ in range(MIN_CLAIMS):
            await ended(store, await store.enqueue("t"))
        await conn.execute(SLOW_SWEEPS)
        before = await until(lambda: conn.fetchval(sweep), "a sweep")
        for _ in range(20):
            await ended(store, await store.enqueue("t"))
        after = await conn.fetchval(sweep)

    assert after == before


async def test_a_pool_without_a_free_connection_does_not_stop_the_looking(
    dsn: str, log: EventLog, conn: asyncpg.Connection
) -> None:
    async with PgJobStore(dsn, pool_size=1) as store:
        worker = Worker(store=store, handlers={"t": lambda _ctx: None}, observers=[log])
        async with worker:
            first = await store.enqueue("t")
            await log.wait_for(JobStarted, lambda event: event.job.id == first)
            async with store.connection():
                late = await conn.fetchval(
                    "insert into pqlite.jobs (job_type, run_after) values ('t', now() - interval '1 h') returning id"
                )
                await log.wait_for(JobStarted, lambda event: event.job.id == late)


async def test_an_outage_is_logged_when_it_begins_and_when_it_ends_however_often_the_scout_failed(
    run: Run,
    log: EventLog,
    conn: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(scout, "LOOK_BACK_EVERY", 0.3)
    caplog.set_level(logging.INFO, "pqlite")
    async with run({"t": lambda _ctx: None}):
        await log.wait_for(WorkerRegistered)
        await conn.execute("alter function pqlite.lanes rename to away")
        await log.wait_for(LoopFailed, lambda event: (event.part, event.failures) == ("scout", 3))
        await conn.execute("alter function pqlite.away rename to lanes")
        await log.wait_for(LoopRecovered, lambda event: event.part == "scout")

    lines = [record.getMessage() for record in caplog.records if "The scout" in record.getMessage()]
    assert len(lines) == 2
    assert lines[0].startswith("The scout failed (1 in a row)")
    assert lines[1].startswith("The scout works again after")


async def test_jobs_are_found_after_the_servers_clock_was_set_back(
    run: Run, store: PgJobStore, conn: asyncpg.Connection
) -> None:
    async with run({"t": lambda _ctx: None}) as worker:
        await ended(store, await store.enqueue("t"))
        # The same as a clock set back by an hour: the watermark is an hour ahead of new jobs.
        parts = worker._running._parts  # type: ignore[union-attr]
        for lane, mark in parts.lanes.marks.items():
            parts.lanes._marks[lane] = mark._replace(run_after=mark.run_after + timedelta(hours=1))
        job_id = await conn.fetchval("insert into pqlite.jobs (job_type) values ('t') returning id")
        job = await ended(store, job_id, patience=4.0)

    assert job.status == "DONE"


async def test_a_diagnosis_tells_the_lanes_their_watermarks_and_how_long_a_job_can_stay_unseen(
    run: Run, store: PgJobStore
) -> None:
    async with run({"t": lambda _ctx: None}, concurrency=2) as worker:
        job = await ended(store, await store.enqueue("t", priority=3))
        diagnosis = worker.diagnosis()

    assert diagnosis is not None
    assert [(lane.queue, lane.job_type, lane.priority) for lane in diagnosis.lanes] == [("default", "t", 3)]
    assert diagnosis.lanes[0].watermark == job.run_after
    assert diagnosis.holder is not None
    assert 1 <= diagnosis.new_lanes_within <= diagnosis.anything_within
    assert diagnosis.late_commits_within >= 1
    assert worker.diagnosis() is None


async def test_the_bounds_grow_with_what_looks_cost(
    run: Run, store: PgJobStore, conn: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scout, "SWEEP_EVERY", 0.5)
    async with run({"t": lambda _ctx: None}) as worker:
        for _ in range(MIN_CLAIMS):
            await ended(store, await store.enqueue("t"))
        await conn.execute(SLOW_SWEEPS)
        await store.enqueue("t")
        diagnosis = await until(lambda: (found := worker.diagnosis()) and found.anything_within > 20 and found)

    assert diagnosis.anything_within >= 20 * 2
    assert 2 < diagnosis.late_commits_within < 6


async def test_only_a_second_slow_look_is_a_reason_to_look_less() -> None:
    timer = ScanTimer(0.0)
    rests = []
    for seconds in (0.05, 0.0, 0.05, 0.06, 0.0):

        async def look(_known: Asked, _deadline: float, seconds: float = seconds) -> list[Head]:
            await asyncio.sleep(seconds)
            return []

        await timer.scan(look, [])
        rests.append(timer.rest >= RATION * 0.05)

    assert rests == [False, False, False, True, False]


async def test_a_look_that_fails_is_rationed_by_the_time_it_took_and_looks_back_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scout, "LOOK_BACK_EVERY", 0.02)
    monkeypatch.setattr(scout, "SWEEP_EVERY", 0.02)
    looks: list[str] = []

    async def look(known: Asked, deadline: float) -> list[Head]:
        looks.append("back" if known else "sweep")
        if not known:
            await asyncio.sleep(0.05)
            raise TimeoutError
        return []

    monkeypatch.setattr(Lanes, "scan_starts", lambda *_: [(Lane("q", "t", 0), Mark(datetime.now(UTC), 1))])
    lanes = Lanes()
    watcher = Scout(lanes=lanes, scan=look, found=lambda: None)
    began = time.monotonic()
    while time.monotonic() - began < 0.9:
        watcher.request(everywhere=True)
        with suppress(TimeoutError):
            await asyncio.sleep(await watcher.step())

    assert looks.count("sweep") == 1
    assert looks.count("back") > 5


async def test_the_scout_works_after_a_start_without_a_database(
    dsn: str, conn: asyncpg.Connection, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = asyncio.Event()
    check = PgJobStore.check_schema

    async def slow(self: PgJobStore) -> None:
        await away.wait()
        await check(self)

    monkeypatch.setattr(PgJobStore, "check_schema", slow)
    monkeypatch.setattr("pqlite.worker.running.START_SECONDS", 0.2)
    async with PgJobStore(dsn) as store:
        async with Worker(store=store, handlers={"t": lambda _ctx: None}, observers=[log]):
            await log.wait_for(WorkerRegistered)
            await asyncio.sleep(0.5)  # the scout has seen that it may not look yet
            away.set()
            await ended(store, await store.enqueue("t"))
            late = await conn.fetchval(
                "insert into pqlite.jobs (job_type, run_after) values ('t', now() - interval '1 h') returning id"
            )
            job = await ended(store, late)

    assert job.status == "DONE"
