"""One run of a worker: the order in which its parts start and stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

from pqlite.errors import SchemaError, WorkerError
from pqlite.events import WorkerStopped, WorkerStopping
from pqlite.events.announcer import DELIVERY_SECONDS
from pqlite.worker.diagnosis import Diagnosis
from pqlite.worker.parts import Parts, Plan
from pqlite.worker.supervisor import Loop

logger = logging.getLogger(__name__)

TICK = 0.1
START_SECONDS = 5.0
SCHEMA_SECONDS = 60.0
"""How often a worker looks whether the schema still serves it."""
HURRY_SECONDS = 3.0


class Running:
    """Made, started and stopped in one event loop. With `once` it sets `drain` itself, when nothing is due any more;
    it then takes over nothing and deletes nothing.
    """

    def __init__(self, plan: Plan, drain: asyncio.Event, *, once: bool = False) -> None:
        self._plan = plan
        self._drain = drain
        self._parts = Parts(plan, drain)
        self._once = self._parts.once() if once else None
        self._starting = self._parts.loop("startup", self._watch_schema)
        self._flaw: str | None = None
        self._looked = 0
        self._started = self._stopping = self._stopped = False
        self._tasks: dict[str, tuple[Loop, asyncio.Task[None]]] = {}

    async def start(self) -> None:
        """Return when the worker claims; or, with startup='wait', after 5 s if the database is away.

        Raises:
            SchemaError: the database's schema is not the one this pqlite needs.
            WorkerError: startup='fail', and the database cannot be reached; or the sentinel cannot start.
        """
        parts = self._parts
        await self._look_at_schema()
        parts.sentinel.start()
        self._unsubscribe = self._plan.store.on_enqueue(parts.notified)
        self._started = True
        self._tick()
        loops = [self._starting, parts.claiming, parts.settling]
        if self._once is None:
            loops += [parts.scouting, parts.pruning]
            loops += [parts.reaping] if self._plan.settings.enable_reaper else []
            loops += [parts.scheduling] if self._plan.settings.enable_scheduler else []
        for loop in loops:
            self._tasks[loop.name] = loop, asyncio.create_task(loop.run(), name=f"pqlite {loop.name}")
        await self._unless_draining(parts.registered_now.wait(), START_SECONDS if parts.may_claim else 0.0)
        if self._plan.startup == "fail" and not parts.registered_now.is_set() and not self._drain.is_set():
            raise WorkerError(f"The worker could not register within {START_SECONDS:g} s.")

    async def stop(self, hurry: asyncio.Event, ends: float) -> None:
        """Stop claiming, give attempts their grace, cancel them, write outcomes, unregister; until `ends`
        (time.monotonic), whatever the database does. Observers have a second of that at most to hear of it.

        `hurry` ends the grace, and leaves 3 seconds for the rest. Cut short by a cancellation, it can be called again.
        """
        if not self._started:
            return
        parts, settings = self._parts, self._plan.settings
        seconds = max(_left(ends), 0.0)
        reserve, moment = min(5.0, seconds * 0.4), min(0.5, seconds * 0.05)
        if not self._stopping:
            self._stopping = True
            self._drain.set()
            self._unsubscribe()
            self._plan.announce(WorkerStopping(self._plan.worker_id, len(parts.executor.running)))
        parts.executor.waiting.clear()
        await self._end(["claimer"], min(reserve * 0.6, 3.0), moment)
        await self._end(["startup", "scout", "pruner", "scheduler"], moment, moment)

        grace = min(settings.shutdown_grace.total_seconds(), _left(ends) - reserve)
        if not await self._drained(grace, hurry):
            parts.executor.cancel_all("shutdown")
            ends = min(ends, time.monotonic() + HURRY_SECONDS) if hurry.is_set() else ends
            await self._drained(_left(ends) - min(reserve, _left(ends) * 0.4))
        if parts.settler.undelivered:
            logger.info("Writing how %d jobs ended; for %.1f s at most.", len(parts.settler.undelivered), _left(ends))
        await self._end(["settler"], _share(ends, 0.5), moment)
        await parts.settler.flush(_share(ends, 0.5))
        await self._give_back_unknown(_share(ends, 0.3))
        await self._end(["reaper"], _share(ends, 0.1), moment)
        await parts.sentinel.stop(_share(ends, 0.6))

        self._ticking.cancel()
        await self._close_links(_share(ends, 0.3))
        if not self._stopped:
            self._stopped = True
            self._plan.announce(WorkerStopped(self._plan.worker_id, len(parts.executor.running)))
        await self._plan.announce.finish(min(DELIVERY_SECONDS, _share(ends, 0.9)))

    @property
    def attempts(self) -> int:
        """Return how many attempts a single pass has begun."""
        return 0 if self._once is None else self._once.attempts

    @property
    def lost(self) -> Exception | None:
        """Return why a single pass has ended before its time, None if it has not."""
        return None if self._once is None else self._once.lost

    def trouble(self) -> str | None:
        """Return what is wrong, None if all is well."""
        for loop, _ in self._tasks.values():
            if reason := loop.trouble():
                return reason
        return self._parts.sentinel.trouble() or self._flaw

    def diagnosis(self) -> Diagnosis:
        """Return the state of the parts."""
        return self._parts.diagnosis()

    async def _end(self, names: Sequence[str], seconds: float, moment: float) -> None:
        """Stop loops between two calls, or, after so long, in the middle, which takes `moment` seconds at most."""
        found = [self._tasks[name] for name in names if name in self._tasks]
        if not found:
            return
        for loop, _ in found:
            loop.stop()
        _, late = await asyncio.wait([task for _, task in found], timeout=seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=moment)

    async def _close_links(self, seconds: float) -> None:
        parts = self._parts
        links = (parts.claim_engine.link, parts.settle_engine.link, parts.schedule_link, parts.maintenance)
        await asyncio.wait([asyncio.create_task(link.close(seconds)) for link in links])

    async def _give_back_unknown(self, seconds: float) -> None:
        """Release jobs whose claim was cut off: they have not started, and must not count as lost to a death."""
        if self._parts.claimer.holder is not None:
            with suppress(Exception):  # then they do
                async with asyncio.timeout(seconds):
                    await self._parts.claimer.give_back_unknown(self._parts.claimer.holder)

    async def _drained(self, seconds: float, hurry: asyncio.Event | None = None) -> bool:
        """Wait until no attempt runs, for so long, or until there is a hurry; return whether none runs."""
        waiting: list[asyncio.Task[object]] = [asyncio.create_task(self._parts.executor.drained())]
        if hurry is not None:
            waiting.append(asyncio.create_task(hurry.wait()))
        try:
            await asyncio.wait(waiting, timeout=max(seconds, 0.0), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        return not self._parts.executor.running

    async def _unless_draining(self, work: Coroutine[Any, Any, object], seconds: float) -> None:
        """Await work for so long, or until the worker is told to stop; raise what it raises."""
        task, drain = asyncio.create_task(work), asyncio.create_task(self._drain.wait())
        try:
            await asyncio.wait([task, drain], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            drain.cancel()
            task.cancel()

    async def _look_at_schema(self) -> None:
        try:
            await self._unless_draining(self._see_schema(), START_SECONDS)
        except SchemaError:
            raise
        except Exception as error:
            self._unreachable(error)
        else:
            if not self._parts.may_claim and not self._drain.is_set():
                self._unreachable(TimeoutError(f"no answer within {START_SECONDS:g} s"))

    def _unreachable(self, error: Exception) -> None:
        if self._plan.startup == "fail":
            raise WorkerError(f"The database cannot be reached: {error!r}") from error
        logger.warning("The database cannot be reached (%r); serving without a worker until it can.", error)

    async def _see_schema(self) -> None:
        async with asyncio.timeout(2 * START_SECONDS):
            flaw = await self._plan.store.check_schema()
        if flaw is not None and flaw != self._flaw:
            logger.warning("%s", flaw)
        self._flaw = flaw
        self._parts.may_claim = True

    async def _watch_schema(self) -> float:
        """Check the schema before anything is claimed, if the database was away at the start; and now and then, because
        it may be migrated to a version that no longer serves this pqlite: then nothing is claimed any more.
        """
        parts, self._looked = self._parts, self._looked + 1
        if parts.may_claim and self._looked == 1:
            return SCHEMA_SECONDS
        could = parts.may_claim
        try:
            await self._see_schema()
        except SchemaError:
            parts.may_claim = False
            raise
        except Exception:
            if not could:
                raise
            return SCHEMA_SECONDS  # the other loops say that the database is away
        if not could:
            parts.claiming.wake()
        return SCHEMA_SECONDS

    def _tick(self) -> None:
        self._parts.sentinel.tick()
        if _server_stops():
            self._drain.set()
        self._ticking = asyncio.get_running_loop().call_later(TICK, self._tick)


def _left(ends: float) -> float:
    return ends - time.monotonic()


def _share(ends: float, share: float) -> float:
    """Return a share of the time that is left, and a moment if there is none."""
    return max(_left(ends) * share, 0.02)


def _server_stops() -> bool:
    """Return whether uvicorn has begun to stop. It says so to nobody, and ends the lifespan only after the last
    request; its signal handler is a method of the server, which has a flag.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(server, "should_exit", False) is True
