"""Both stores side by side: whatever is done, in whatever order, they say the same and keep the same."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from pqlite import PgJobStore
from pqlite.errors import PqliteError
from pqlite.job import Job
from pqlite.outcome import Verb
from pqlite.testing import MemoryJobStore, jobs_of
from tests.conformance.scene import Holder, MemoryHolder, MemoryScene, PgScene, RolledBack, Scene
from tests.store.workers import RegisteredWorker

STEPS = 120
HOUR = timedelta(hours=1)
LEASE = timedelta(days=10_000)
FINISHED = ("DONE", "FAILED", "CANCELLED")


class Side:
    """One of the two stores. Jobs are named by the order in which they came: PostgreSQL leaves gaps between ids."""

    def __init__(self, store: MemoryJobStore | PgJobStore, scene: Scene, holder: Holder) -> None:
        self.store = store
        self.scene = scene
        self.holder = holder
        self.ids: list[int] = []
        self.held: list[Job] = []

    def number(self, job_id: int) -> int:
        """Return a job's place; one that has none yet gets the next."""
        if job_id not in self.ids:
            self.ids.append(job_id)
        return self.ids.index(job_id)

    async def state(self) -> list[Any]:
        return [self.look(job) for job in sorted(await jobs_of(self.store), key=lambda job: self.number(job.id))]

    def look(self, job: Job) -> Any:
        """Return what must be equal on both sides."""
        return (
            *(self.number(job.id), job.job_type, job.payload, job.queue, job.priority, job.status, job.dedupe_key),
            *(job.attempts, job.max_attempts, job.claims, job.crashes, job.result, masked(job.last_error)),
            *(masked(job.locked_by), job.duration_ms is None, job.finished_at is None, job.locked_at is None),
            *(job.cancel_requested_at is None, [(e["attempt"], masked(e["error"])) for e in job.errors]),
        )


def masked(text: str | None) -> str | None:
    """Return text without the random part of a holder's name."""
    return text if text is None else re.sub(r"hand-[0-9a-f]{8}", "hand", text)


@pytest.fixture
async def sides(dsn: str) -> AsyncIterator[tuple[Side, Side]]:
    async with MemoryJobStore() as memory, PgJobStore(dsn=dsn) as pg:
        engine = pg.engine("walk")
        await engine.register("holder", "holder", None, LEASE, {})
        yield (
            Side(memory, MemoryScene(memory), MemoryHolder(memory)),
            Side(pg, PgScene(pg), RegisteredWorker(engine, "holder")),
        )
        await engine.link.close()


Act = Callable[[Side], Coroutine[Any, Any, Any]]


def enqueue(dice: random.Random) -> Act:
    options: dict[str, Any] = {
        "payload": dice.randrange(100),
        "dedupe_key": dice.choice([None, "k", "l", "m"]),
        "run_after": dice.choice([None, None, HOUR, 2 * HOUR]),
        "priority": dice.choice([0, 0, 5]),
        "max_attempts": dice.choice([1, 2, 5]),
        "queue": dice.choice(["default", "slow"]),
        "job_type": dice.choice("tu"),
    }
    many = dice.random() < 0.3
    ends = dice.choice([None, None, "commit", "roll back"])

    async def add(side: Side, conn: Any) -> Any:
        if not many:
            return [await side.store.enqueue(**options, conn=conn)]
        jobs = [options | {"payload": n} for n in range(3)]
        return [verdict.id for verdict in await side.store.enqueue_many(jobs, conn=conn)]

    async def act(side: Side) -> Any:
        if ends is None:
            return [side.number(job_id) for job_id in await add(side, None)]
        ids: list[int] = []
        with suppress(RolledBack):
            async with side.store.transaction() as tx:
                ids = await add(side, tx)
                if ends == "roll back":
                    raise RolledBack
        return [side.number(job_id) for job_id in ids] if ends == "commit" else None

    return act


def claim(dice: random.Random) -> Act:
    async def act(side: Side) -> Any:
        if any(job.crashes and job.locked_by == "holder" for job in await jobs_of(side.store)):
            return None  # how many suspects a worker runs at once is the engine's concern
        job = await side.holder.claim_due()
        side.held += [] if job is None else [job]
        return None if job is None else side.look(job)[:10]

    return act


def pickup(dice: random.Random) -> Act:
    async def act(side: Side) -> Any:
        job = await side.store.pickup("hand")
        if job is not None:
            side.held.append(job)
        return None if job is None else side.look(job)

    return act


def settle(dice: random.Random) -> Act:
    # Mostly of the latest claims: the others were told already.
    verb, at = dice.choice(list(Verb)), dice.random() ** 0.2
    fields: dict[str, Any] = {
        "error": dice.choice([None, "why"]),
        "delay": dice.choice([0.0, 3600.0]),
        "result": dice.choice([None, "[1]"]),
        "duration_ms": dice.choice([None, 7]),
    }

    async def act(side: Side) -> Any:
        if not side.held:
            return None
        job = side.held[int(at * len(side.held))]
        if job.locked_by != "holder":
            return None
        return await side.holder.settle(job, verb, **fields)

    return act


def complete(dice: random.Random) -> Act:
    at, ends, inside = dice.random() ** 0.2, dice.choice(["commit", "commit", "roll back"]), dice.random() < 0.5

    async def act(side: Side) -> Any:
        if not side.held:
            return None
        job = side.held[int(at * len(side.held))]
        status = job.status
        try:
            if inside:
                async with side.store.complete(job, result="completed"):
                    if ends == "roll back":
                        raise RolledBack
            else:
                async with side.store.transaction() as tx:
                    await side.store.complete_on(tx, job, result="completed")
                    if ends == "roll back":
                        raise RolledBack
        except (RolledBack, PqliteError) as error:
            return type(error), await side.store.was_completed(job)
        finally:
            job.status = status
        return await side.store.was_completed(job)

    return act


def of_a_job(verb: str) -> Callable[[random.Random], Act]:
    def make(dice: random.Random) -> Act:
        at = dice.random()

        async def act(side: Side) -> Any:
            if not side.ids:
                return None
            return await getattr(side.store, verb)(side.ids[int(at * len(side.ids))])

        return act

    return make


def cancel_held(dice: random.Random) -> Act:
    async def act(side: Side) -> Any:
        return await side.store.cancel(side.held[-1].id) if side.held else None

    return act


def reap_stale(dice: random.Random) -> Act:
    """Take what was picked up by hand, and never settled, from its holder."""
    by = dice.choice([timedelta(0), HOUR])

    async def act(side: Side) -> Any:
        await side.scene.pass_time(by)
        return await side.store.reap_stale()

    return act


ACTS = [
    *[enqueue] * 6,
    *[claim] * 5,
    *[settle] * 6,
    *[pickup, pickup, complete, complete, reap_stale],
    *[of_a_job("cancel"), cancel_held, of_a_job("retry")],
]


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_is_done_both_stores_say_the_same_and_keep_the_same(sides: tuple[Side, Side], seed: int) -> None:
    dice = random.Random(seed)
    story: list[str] = []
    for _ in range(STEPS):
        make = dice.choice(ACTS)
        act = make(dice)
        answers = []
        for side in sides:
            try:
                answers.append(await act(side))
            except PqliteError as error:
                answers.append(type(error))
        story.append(f"{act.__qualname__.split('.')[0]}: {answers[0]!r}")
        assert answers[0] == answers[1], "\n".join(story)
        states = [await side.state() for side in sides]
        assert states[0] == states[1], "\n".join(story)
