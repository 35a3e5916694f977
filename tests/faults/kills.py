"""Processes killed at random while they drain a queue."""

import asyncio
import random

from tests.faults.auditor import Audit
from tests.faults.scene import Scene

SLOTS = 5
BATCH = 1000


async def drain_with_kills(
    scene: Scene, *, jobs: int, kills: int, every: float, processes: int = 3, seed: int | None = None
) -> Audit:
    """Drain effect jobs while, every so many seconds, one process is killed and another started in its place.

    Whoever judges must have been alive for 8 seconds, so kills that come faster than that leave no judge.
    """
    chance = random.Random(seed)
    # So long that the jobs last longer than the kills do.
    seconds = (kills + 1) * every * 1.3 * SLOTS * processes / jobs
    for start in range(0, jobs, BATCH):
        kind = "session_effect" if start // BATCH % 2 else "effect"
        await scene.enqueue_many(kind, min(BATCH, jobs - start), seconds=seconds, max_attempts=kills + 1)
    running = [await scene.spawn(f"drainer-{n}", concurrency=SLOTS) for n in range(processes)]

    for number in range(kills):
        await asyncio.sleep(every * chance.uniform(1.0, 1.2))
        victim = running.pop(chance.randrange(processes))
        victim.kill()
        running.append(await scene.spawn(f"drainer-{processes + number}", concurrency=SLOTS))
    await scene.drained(patience=120.0 + jobs / 50)
    return await scene.audit()
