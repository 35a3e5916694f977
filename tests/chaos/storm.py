"""Producers, workers and random faults, side by side; then quiet, and one audit."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import asyncpg

from pqlite.embedded import EmbeddedPostgres
from pqlite.errors import PqliteError
from tests.faults.auditor import Audit
from tests.faults.proxy import Proxy
from tests.faults.scene import Process, Scene

ATTEMPTS = 100
"""More than any storm takes: a good job must end DONE."""
KINDS = ("effect",) * 8 + ("session_effect",) * 8 + ("flaky", "flaky", "slow", "thread")
PURPOSES = ("", "", "pqlite", "pqlite claimer", "pqlite settler", "pqlite sentinel")

WEATHER = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, PqliteError)
Fault = Callable[[], Awaitable[None]]


class Slot:
    """A place for one worker process, which is started again whenever it ends, behind a network of its own."""

    def __init__(self, scene: Scene, proxy: Proxy, label: str) -> None:
        self._scene = scene
        self._label = label
        self.proxy = proxy
        self.process: Process | None = None
        self.closed = False

    async def keep(self) -> None:
        while not self.closed:
            self.process = await self._scene.spawn(self._label, ready=False, dsn=self.proxy.dsn, grace=2.0)
            while self.process.returncode is None:
                await asyncio.sleep(0.1)
                if self.closed:
                    return
            self._scene.deaths.setdefault(self.process.pid, time.time())


class Storm:
    """One run. `seed` decides which faults come; when they meet whom is the machine's own chance."""

    def __init__(self, scene: Scene, server: EmbeddedPostgres, *, seed: int, rate: float) -> None:
        self._scene = scene
        self._server = server
        self._chance = random.Random(seed)
        self._rate = rate
        self._slots: list[Slot] = []
        self._over = asyncio.Event()
        self.faults: Counter[str] = Counter()
        self.poisons: list[int] = []
        self.unsure = 0
        """Enqueues whose answer was lost: they may have added a job, or not."""

    async def rage(self, seconds: float, processes: int) -> Audit:
        """Let it blow for as long, let it calm down, and audit."""
        async with AsyncExitStack() as stack:
            for number in range(processes):
                proxy = await stack.enter_async_context(Proxy(self._scene.dsn))
                self._slots.append(Slot(self._scene, proxy, f"worker-{number}"))
            keepers = [asyncio.create_task(slot.keep(), name="scenario keeper") for slot in self._slots]
            producers = [asyncio.create_task(self._produce(3), name="scenario producer") for _ in range(3)]
            ends = time.monotonic() + seconds
            while (left := ends - time.monotonic()) > 0:
                await asyncio.sleep(min(self._chance.uniform(1.0, 6.0), left))
                name, fault = self._chance.choice(self._menu())
                self.faults[name] += 1
                await fault()
            self._over.set()
            await asyncio.gather(*producers)

            for slot in self._slots:
                await slot.proxy.heal()
                if slot.process is not None and slot.process.returncode is None:
                    slot.process.signal(signal.SIGCONT)
            # Slots stay open: poison may be left.
            await self._scene.drained(patience=180.0 + seconds / 4)
            for slot in self._slots:
                slot.closed = True
            await asyncio.gather(*keepers)
            return await self._judge()

    async def _judge(self) -> Audit:
        known = set(self._scene.ids)
        rows = await self._scene.fetch("select id, job_type, status, payload ? 'phantom' as phantom from pqlite.jobs")
        unknown = [row["id"] for row in rows if row["id"] not in known]
        self._scene.ids += unknown  # their enqueue was committed, and its answer lost
        audit = await self._scene.audit(overlaps=self.faults["server crash"] > 0)
        audit.require("a rolled back enqueue leaves nothing", [row["id"] for row in rows if row["phantom"]])
        audit.require("a job comes from an enqueue", unknown[self.unsure :])
        wrong = [tuple(row) for row in rows if row["status"] != ("FAILED" if row["job_type"] == "poison" else "DONE")]
        audit.require("good jobs are DONE, poison is FAILED", wrong)
        audit.check()
        return audit

    # Work

    async def _produce(self, share: int) -> None:
        while not self._over.is_set():
            await asyncio.sleep(self._chance.expovariate(self._rate / share))
            try:
                await self._enqueue()
            except WEATHER:
                self.unsure += 1
                await asyncio.sleep(0.2)

    async def _enqueue(self) -> None:
        dice = self._chance.random()
        payload = {"seconds": round(self._chance.expovariate(10), 3)}
        kind = self._chance.choice(KINDS)
        store = self._scene.store
        if dice < 0.05:
            with suppress(ZeroDivisionError):
                async with store.transaction() as conn:
                    await store.enqueue("effect", {"phantom": True}, conn=conn)
                    raise ZeroDivisionError
        elif dice < 0.1:
            async with store.transaction() as conn:
                job_id = await store.enqueue(kind, payload, max_attempts=ATTEMPTS, conn=conn)
            self._scene.ids.append(job_id)
        else:
            key = f"key {self._chance.randrange(50)}" if dice < 0.3 else None
            priority = self._chance.choice((0, 0, 0, 1))
            job_id = await store.enqueue(kind, payload, dedupe_key=key, priority=priority, max_attempts=ATTEMPTS)
            if key is None or job_id not in self._scene.ids[-1000:]:
                self._scene.ids.append(job_id)

    # Faults

    def _menu(self) -> list[tuple[str, Fault]]:
        often: list[tuple[str, Fault]] = [
            ("SIGKILL", self._kill),
            ("SIGTERM", self._terminate),
            ("SIGSTOP, short", lambda: self._freeze(self._chance.uniform(0.5, 6.0))),
            ("backends terminated", self._cut_backends),
            ("network reset", self._reset),
            ("black hole, short", lambda: self._black_hole(self._chance.uniform(0.5, 5.0))),
        ]
        seldom: list[tuple[str, Fault]] = [
            ("SIGSTOP, long", lambda: self._freeze(self._chance.uniform(20.0, 40.0))),
            ("black hole, long", lambda: self._black_hole(self._chance.uniform(10.0, 40.0))),
            ("slow network", self._slow_network),
            ("poison", self._poison),
            ("server crash", lambda: self._server.restart("immediate")),
            ("server restart", lambda: self._server.restart("fast")),
            ("server outage", self._outage),
        ]
        return often * 3 + seldom

    def _someone(self) -> Slot:
        return self._chance.choice(self._slots)

    def _signal(self, number: signal.Signals) -> Process | None:
        process = self._someone().process
        if process is None or process.returncode is not None:
            return None
        process.signal(number)
        return process

    async def _kill(self) -> None:
        self._signal(signal.SIGKILL)

    async def _terminate(self) -> None:
        self._signal(signal.SIGTERM)

    async def _freeze(self, seconds: float) -> None:
        process = self._signal(signal.SIGSTOP)
        if process is not None:
            self._later(seconds, lambda: process.signal(signal.SIGCONT))

    async def _cut_backends(self) -> None:
        with suppress(*WEATHER):
            await self._scene.fetch(
                "select pg_terminate_backend(pid) from (select pid from pg_stat_activity where application_name "
                "like 'pqlite%' and datname = current_database() order by random() limit $1) victims",
                self._chance.randint(1, 4),
            )

    async def _reset(self) -> None:
        self._someone().proxy.reset(self._chance.choice(PURPOSES))

    async def _black_hole(self, seconds: float) -> None:
        slot = self._someone()
        slot.proxy.black_hole(self._chance.choice(PURPOSES), new_ones=self._chance.random() < 0.7)
        self._later(seconds, lambda: asyncio.ensure_future(slot.proxy.heal()))

    async def _slow_network(self) -> None:
        slot = self._someone()
        slot.proxy.delay = self._chance.uniform(0.05, 0.5)
        self._later(10.0, lambda: setattr(slot.proxy, "delay", 0.0))

    async def _poison(self) -> None:
        with suppress(*WEATHER):
            self.poisons.append(await self._scene.enqueue("poison", seconds=0.1, max_attempts=2))

    async def _outage(self) -> None:
        async with self._server.outage("fast"):
            await asyncio.sleep(self._chance.uniform(1.0, 30.0))

    @staticmethod
    def _later(seconds: float, what: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_later(seconds, what)
