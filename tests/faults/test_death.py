"""Processes that die, freeze, block and fork: only the dead lose their jobs, and they lose them soon."""

import asyncio
import os
import signal
import time
from contextlib import suppress

import pytest

from tests.faults.kills import drain_with_kills
from tests.faults.process import POISON_EXIT
from tests.faults.scene import STEADY, Process, Scene, side_by_side
from tests.support import until

pytestmark = pytest.mark.timeout(240)  # Scenes share the processor: alone each takes a quarter of this at most.

RECOVERY = 10.0
START_SLACK = 1.0
"""For a machine that is busy with other tests: between the moment a job can be claimed and its handler's first line."""


@side_by_side
async def test_jobs_of_a_killed_process_start_elsewhere_within_ten_seconds(scene: Scene) -> None:
    victim = await scene.spawn("victim", concurrency=3)
    jobs = await scene.enqueue_many("slow", 3, seconds=60.0, max_attempts=2)
    await scene.line("start", pid=victim.pid, count=3)
    heir = await scene.spawn("heir")
    await _may_judge(scene, heir)

    died = victim.kill()
    first = await scene.line("start", pid=heir.pid)

    # The others wait their turn: one of them may be the killer, and this is the last attempt of each.
    rows = [await scene.row(job) for job in jobs]
    assert first.at - died < RECOVERY + START_SLACK
    assert sorted(row["status"] for row in rows) == ["READY", "READY", "RUNNING"]
    assert all(row["crashes"] == 1 for row in rows)
    for job in jobs:
        await scene.store.cancel(job)
    await scene.drained()
    audit = await scene.audit()
    assert max(audit.recoveries) < RECOVERY


@side_by_side
async def test_a_process_frozen_for_twice_its_lease_is_refused_and_works_on_under_a_new_name(scene: Scene) -> None:
    frozen = await scene.spawn("frozen", lease=12, concurrency=2)
    # One is cancelled when its process comes to itself; the other takes no notice, and tries to finish.
    jobs = [await scene.enqueue(kind, seconds=[30.0, 6.0]) for kind in ("slow", "stubborn")]
    await scene.line("start", pid=frozen.pid, count=2)
    heir = await scene.spawn("heir")

    frozen.signal(signal.SIGSTOP)
    thawed_at = time.time() + 24.0
    await scene.line("end", pid=heir.pid, count=2, patience=40.0)
    await asyncio.sleep(thawed_at - time.time())
    frozen.signal(signal.SIGCONT)

    await scene.line("fenced", pid=frozen.pid)
    reborn = await scene.line("registered", pid=frozen.pid, count=2)
    await scene.line("refused", pid=frozen.pid, job=jobs[1], claims=1)
    await heir.stop()
    later = await scene.enqueue("effect")
    await scene.line("end", pid=frozen.pid, job=later)
    await scene.drained()
    audit = await scene.audit()
    rows = [await scene.row(job) for job in jobs]
    assert reborn.holder != frozen.lines("registered")[0].holder
    assert [(row["status"], row["claims"], row["crashes"]) for row in rows] == [("DONE", 2, 1)] * 2
    assert [[run.pid for run in audit.runs_of(job)] for job in jobs] == [[frozen.pid, heir.pid]] * 2
    assert [run.holder for run in audit.runs_of(later)] == [reborn.holder]


@side_by_side
async def test_a_process_frozen_for_half_its_lease_keeps_its_jobs(scene: Scene) -> None:
    frozen = await scene.spawn("frozen")
    job = await scene.enqueue("effect", seconds=24.0)
    await scene.line("start", pid=frozen.pid, job=job)
    heir = await scene.spawn("heir")
    await _may_judge(scene, heir)

    frozen.signal(signal.SIGSTOP)
    await asyncio.sleep(10.0)  # others would judge after 8 s, if its lock were free
    frozen.signal(signal.SIGCONT)

    assert not scene.reader.lines("end")
    await scene.drained()
    audit = await scene.audit()
    assert [run.pid for run in audit.runs_of(job)] == [frozen.pid]


@side_by_side
async def test_a_handler_that_blocks_the_loop_for_longer_than_the_lease_runs_once_and_is_named(scene: Scene) -> None:
    sleeper = await scene.spawn("sleeper", lease=12, concurrency=2)
    job = await scene.enqueue("block", seconds=15.0)
    await scene.line("start", pid=sleeper.pid, job=job)
    await scene.spawn("onlooker")

    await scene.line("end", pid=sleeper.pid, job=job, patience=25.0)

    await scene.drained()
    audit = await scene.audit()
    row = await scene.row(job)
    assert len(audit.runs_of(job)) == 1
    assert (row["status"], row["attempts"], row["claims"]) == ("DONE", 1, 1)
    assert sleeper.lines("fenced") == []
    assert "THE BLOCKING LINE" in sleeper.log.read_text()
    assert "THE BLOCKING LINE" in sleeper.lines("blocked")[0].more["stack"]


@side_by_side
async def test_handlers_three_times_as_long_as_the_lease_run_once_while_others_look_on(scene: Scene) -> None:
    for label in ("one", "two", "three"):
        await scene.spawn(label, lease=12, concurrency=1)
    jobs = [await scene.enqueue(kind, seconds=36.0, max_attempts=3) for kind in ("effect", "thread")]

    await scene.drained(patience=60.0)

    audit = await scene.audit()
    assert [len(audit.runs_of(job)) for job in jobs] == [1, 1]


@side_by_side
async def test_a_handler_that_computes_for_as_long_as_the_lease_runs_once(scene: Scene) -> None:
    await scene.spawn("busy", lease=12)
    await scene.spawn("onlooker", lease=12)
    job = await scene.enqueue("busy", seconds=14.0)

    await scene.drained(patience=40.0)

    audit = await scene.audit()
    assert len(audit.runs_of(job)) == 1


@side_by_side
async def test_a_forked_child_does_not_keep_the_jobs_of_its_killed_parent(scene: Scene) -> None:
    parent = await scene.spawn("parent")
    job = await scene.enqueue("fork", seconds=90.0, max_attempts=1)
    child = (await scene.line("forked", job=job)).more["child"]
    heir = await scene.spawn("heir")
    await _may_judge(scene, heir)

    try:
        parent.kill()
        await scene.drained(patience=RECOVERY + 5.0)
        os.kill(child, 0)  # the child is still there
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)

    audit = await scene.audit()
    assert max(audit.recoveries) < RECOVERY


@side_by_side
async def test_a_terminated_process_gives_its_jobs_back_at_once_and_no_attempt_is_lost(scene: Scene) -> None:
    leaver = await scene.spawn("leaver", grace=0.0, concurrency=4)
    jobs = await scene.enqueue_many("slow", 4, seconds=30.0, max_attempts=2)
    await scene.line("start", pid=leaver.pid, count=4)
    heir = await scene.spawn("heir")
    await _sleeps_long(scene)

    left = leaver.signal(signal.SIGTERM)
    last = await scene.line("start", pid=heir.pid, count=4)

    rows = [await scene.row(job) for job in jobs]
    assert last.at - left < 2.0
    assert [(row["attempts"], row["claims"], row["crashes"]) for row in rows] == [(1, 2, 0)] * 4
    for job in jobs:
        await scene.store.cancel(job)
    await scene.drained()
    assert await leaver.ended() == 0
    await scene.audit()


@side_by_side
async def test_twenty_jobs_of_a_killed_process_are_done_within_two_rounds_of_another(scene: Scene) -> None:
    victim = await scene.spawn("victim", concurrency=20)
    await scene.enqueue_many("effect", 20, seconds=[60.0, 5.0])
    await scene.line("start", pid=victim.pid, count=20)
    heir = await scene.spawn("heir", concurrency=20)
    await _may_judge(scene, heir)

    died = victim.kill()
    last = await scene.line("end", pid=heir.pid, count=20, patience=40.0)

    assert last.at - died < 25.0
    await scene.drained()
    await scene.audit()


@side_by_side
async def test_a_poison_job_fails_and_costs_each_neighbour_two_attempts_at_most(scene: Scene) -> None:
    good = await scene.enqueue_many("effect", 20, seconds=0.2, max_attempts=3)
    poison = await scene.enqueue("poison", seconds=0.3, max_attempts=3, priority=1)
    good += await scene.enqueue_many("effect", 20, seconds=0.2, max_attempts=3)

    async with KeptAlive(scene, "patient"):
        await scene.drained(patience=90.0)

    await scene.audit()
    rows = await scene.fetch("select id, status, attempts, crashes from pqlite.jobs")
    died = {row["id"]: row for row in rows}[poison]
    assert (died["status"], died["attempts"]) == ("FAILED", 3)
    assert {(row["status"]) for row in rows if row["id"] in good} == {"DONE"}
    assert max(row["crashes"] for row in rows if row["id"] in good) <= 2


@side_by_side
async def test_two_thousand_effects_survive_three_random_kills_and_none_is_doubled(scene: Scene) -> None:
    """More of them, for as long as you like: `python -m tests.chaos`."""
    audit = await drain_with_kills(scene, jobs=2000, kills=3, every=4.0)

    done = await scene.fetch("select count(*) from pqlite.jobs where status = 'DONE'")
    assert done[0][0] == 2000
    assert audit.recoveries  # a kill may hit a process that holds no job at that moment
    assert max(audit.recoveries) < RECOVERY


async def _may_judge(scene: Scene, process: Process) -> None:
    """Return when the process has been alive for so long that it may declare others dead."""
    await until(lambda: scene.fetch(STEADY, process.label), f"{process.label} to be a judge")


async def _sleeps_long(scene: Scene) -> None:
    """Return when an idle worker has gone to sleep for the longest time that its policy knows."""
    sql = "select from pqlite.wake_until where last_value > extract(epoch from clock_timestamp()) * 1000 + 11000"
    await until(lambda: scene.fetch(sql), "a worker to sleep long")


class KeptAlive:
    """Restarts a process whenever it dies of poison, as an init system would."""

    def __init__(self, scene: Scene, label: str) -> None:
        self._scene, self._label = scene, label

    async def __aenter__(self) -> None:
        self._process = await self._scene.spawn(self._label, concurrency=5)
        self._task = asyncio.create_task(self._keep(), name="scenario keeper")

    async def _keep(self) -> None:
        while True:
            assert await self._process.ended(seconds=120.0) == POISON_EXIT
            self._process = await self._scene.spawn(self._label, concurrency=5)

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
