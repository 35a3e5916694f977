"""A stop ends within its shutdown_timeout, in whatever phase it is asked for, whatever the network does meanwhile."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pqlite import JobContext, PgJobStore, Worker
from pqlite.events import Event
from tests.cli.process import watched
from tests.faults.proxy import Proxy

TIMEOUT = 2.0
SLACK = 0.35
"""For what a busy machine takes to come to its turn."""
PROCESS_SLACK = 1.5
"""The same for the end of an interpreter."""


@asynccontextmanager
async def resources(seconds: float) -> AsyncIterator[dict[str, Any]]:
    yield {}
    await asyncio.sleep(seconds)


class Scene:
    """A worker on its own store, whose handlers stop when they are asked to, or do not."""

    def __init__(self, dsn: str, **options: Any) -> None:
        self.started = asyncio.Event()
        self.over = asyncio.Event()
        self.store = PgJobStore(dsn=dsn)
        self.worker = Worker(
            self.store,
            {"obedient": self.obedient, "stubborn": self.stubborn},
            shutdown_timeout=TIMEOUT,
            shutdown_grace=0.5,
            **options,
        )

    async def obedient(self, ctx: JobContext) -> None:
        self.started.set()
        await asyncio.Event().wait()

    async def stubborn(self, ctx: JobContext) -> None:
        self.started.set()
        while not self.over.is_set():
            try:
                await self.over.wait()
            except asyncio.CancelledError:
                pass


def fail(proxy: Proxy, network: str) -> None:
    if network == "silent":
        proxy.black_hole()
    elif network == "refused":
        proxy._listener.close()
        proxy.reset()
    else:
        proxy.delay = 0.7


@pytest.mark.parametrize("network", ["silent", "refused", "slow"])
@pytest.mark.parametrize("phase", ["starting", "idle", "obedient", "stubborn", "draining"])
async def test_a_lifespan_ends_within_its_timeout(dsn: str, network: str, phase: str) -> None:
    async with Proxy(dsn) as proxy, PgJobStore(dsn=dsn) as ours:
        scene = Scene(proxy.dsn, resources=lambda: resources(30.0))
        if phase == "starting":
            fail(proxy, network)
            entering = asyncio.create_task(scene.worker.__aenter__())
            await asyncio.sleep(0.1)
            began = time.monotonic()
            scene.worker.begin_shutdown()
            await entering
        else:
            await scene.worker.__aenter__()
            if phase != "idle":
                await ours.enqueue("obedient" if phase == "draining" else phase)
                await scene.started.wait()
            began = time.monotonic()
            if phase == "draining":
                scene.worker.begin_shutdown()
                await asyncio.sleep(0.2)
            fail(proxy, network)
        await scene.worker.__aexit__()
        took = time.monotonic() - began
        scene.over.set()

    assert took < TIMEOUT + SLACK
    assert not scene.store.started


async def test_observers_that_do_not_end_are_part_of_the_timeout(dsn: str) -> None:
    async def slow(event: Event) -> None:
        await asyncio.Event().wait()

    scene = Scene(dsn, observers=[slow])
    async with scene.worker:
        began = time.monotonic()
    assert time.monotonic() - began < TIMEOUT + SLACK


APP = """
import asyncio, os
from pqlite import PgJobStore, Worker

async def long(ctx):
    print("long has started", flush=True)
    await asyncio.Event().wait()

async def quick(ctx):
    print("quick has started", flush=True)

worker = Worker(PgJobStore(dsn=os.environ["APP_DSN"]), {"long": long, "quick": quick},
                shutdown_timeout=2, shutdown_grace=0.5)
"""


@pytest.mark.parametrize("job_type", ["quick", "long"])
async def test_the_command_ends_within_its_timeout_although_the_network_is_silent(
    dsn: str, job_type: str, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text(APP)
    async with Proxy(dsn) as proxy, PgJobStore(dsn=dsn) as ours:
        await ours.enqueue(job_type)
        async with watched("worker", "main:worker", cwd=tmp_path, env={"APP_DSN": proxy.dsn}) as command:
            await command.prints(f"{job_type} has started")
            proxy.black_hole()
            began = time.monotonic()
            command.send(signal.SIGTERM)
            await command.exits()
            took = time.monotonic() - began

    assert took < TIMEOUT + PROCESS_SLACK, command.output
