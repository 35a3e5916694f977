"""Processes that are killed at random and started again, so fast that none lives for long, while they drain a queue."""

import asyncio
import random

from tests.faults.auditor import Audit
from tests.faults.scene import Process, Scene
from tests.support import until

CONCURRENCY = 20
BATCH = 1000
ATTEMPTS = 1000
"""More than the kills of any run: a good job must end DONE."""


async def crash_loop(scene: Scene, *, jobs: int, processes: int, seed: int) -> Audit:
    """Kill a random process and start another in its place every 0.5 to 2.5 s, until the queue is empty; then audit."""
    chance = random.Random(seed)
    running = [await scene.spawn(f"looper-{n}", concurrency=CONCURRENCY) for n in range(processes)]
    killing = asyncio.create_task(_keep_killing(scene, running, chance), name="scenario killer")
    try:
        for start in range(0, jobs, BATCH):
            await scene.enqueue_many("effect", min(BATCH, jobs - start), seconds=0.005, max_attempts=ATTEMPTS)
        await scene.drained(patience=120.0 + jobs / 50)
    finally:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
    for process in running:  # one that has just begun cannot be asked to stop yet
        await until(lambda process=process: process.lines("registered"), f"{process.label} to register", 30.0)
    return await scene.audit()


async def _keep_killing(scene: Scene, running: list[Process], chance: random.Random) -> None:
    number = len(running)
    while True:
        await asyncio.sleep(chance.uniform(0.5, 2.5))
        # Not one that is still starting, which holds no job: on a busy machine none would ever get further.
        victims = [process for process in running if process.lines("registered")]
        if not victims:
            continue
        victim = chance.choice(victims)
        running.remove(victim)
        victim.kill()
        running.append(await scene.spawn(f"looper-{number}", ready=False, concurrency=CONCURRENCY))
        number += 1
