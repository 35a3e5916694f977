"""Starts and stops the parts of one worker run."""

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
from pqlite.worker.parts import Parts, WorkerConfig
from pqlite.worker.supervisor import Loop

logger = logging.getLogger(__name__)

TICK = 0.1
START_SECONDS = 5.0
SCHEMA_SECONDS = 60.0
"""How often a worker checks that the schema still supports it."""
HURRY_SECONDS = 3.0


class Running:
    """One run of a worker, created, started and stopped in one event loop.

    A single pass sets `drain` when no job is due any more. It takes over no jobs, and deletes none.
    """

    def __init__(self, config: WorkerConfig, drain: asyncio.Event, *, single_pass: bool = False) -> None:
        self._config = config
        self._drain = drain
        self._parts = Parts(config, drain)
        self._single_pass = self._parts.single_pass() if single_pass else None
        self._starting = self._parts.loop("startup", self._watch_schema)
        self._schema_problem: str | None = None
        self._schema_checks = 0
        self._started = self._stopping = self._stopped = False
        self._tasks: dict[str, tuple[Loop, asyncio.Task[None]]] = {}

    async def start(self) -> None:
        """Return when the worker claims; or, with startup='wait', after 5 s if the database cannot be reached.

        Raises:
            SchemaError: the database's schema does not support this pqlite.
            WorkerError: startup='fail', and the database cannot be reached; or the sentinel cannot start.
        """
        parts = self._parts
        await self._check_schema_at_start()
        parts.sentinel.start()
        self._unsubscribe = self._config.store.on_enqueue(parts.notified)
        self._started = True
        self._tick()
        loops = [self._starting, parts.claimer_loop, parts.settler_loop]
        if self._single_pass is None:
            loops += [parts.scout_loop, parts.pruner_loop]
            loops += [parts.reaper_loop] if self._config.settings.enable_reaper else []
            loops += [parts.scheduler_loop] if self._config.settings.enable_scheduler else []
        for loop in loops:
            self._tasks[loop.name] = loop, asyncio.create_task(loop.run(), name=f"pqlite {loop.name}")
        await self._unless_draining(parts.registered_now.wait(), START_SECONDS if parts.may_claim else 0.0)
        if self._config.startup == "fail" and not parts.registered_now.is_set() and not self._drain.is_set():
            raise WorkerError(f"The worker could not register within {START_SECONDS:g} s.")

    async def stop(self, hurry: asyncio.Event, ends: float) -> None:
        """Stop claiming, wait for attempts, cancel them after the grace period, write outcomes, unregister.

        Returns by `ends` (time.monotonic), even if the database does not answer. Observers get at most a second of that
        to receive the last events. `hurry` ends the grace period, and leaves 3 seconds for the rest. If this is
        cancelled, it can be called again.
        """
        if not self._started:
            return
        parts, settings = self._parts, self._config.settings
        seconds = max(_left(ends), 0.0)
        reserve, moment = min(5.0, seconds * 0.4), min(0.5, seconds * 0.05)
        if not self._stopping:
            self._stopping = True
            self._drain.set()
            self._unsubscribe()
            self._config.announce(WorkerStopping(self._config.worker_id, len(parts.executor.running)))
        parts.executor.waiting.clear()
        await self._end(["claimer"], min(reserve * 0.6, 3.0), moment)
        await self._end(["startup", "scout", "pruner", "scheduler"], moment, moment)

        grace = min(settings.shutdown_grace.total_seconds(), _left(ends) - reserve)
        if not await self._drained(grace, hurry):
            parts.executor.cancel_all("shutdown")
            ends = min(ends, time.monotonic() + HURRY_SECONDS) if hurry.is_set() else ends
            await self._drained(_left(ends) - min(reserve, _left(ends) * 0.4))
        if parts.settler.undelivered:
            logger.info("Writing %d outcomes; for %.1f s at most.", len(parts.settler.undelivered), _left(ends))
        await self._end(["settler"], _share(ends, 0.5), moment)
        await parts.settler.flush(_share(ends, 0.5))
        await self._give_back_unknown(_share(ends, 0.3))
        await self._end(["reaper"], _share(ends, 0.1), moment)
        await parts.sentinel.stop(_share(ends, 0.6))

        self._ticking.cancel()
        await self._close_links(_share(ends, 0.3))
        if not self._stopped:
            self._stopped = True
            self._config.announce(WorkerStopped(self._config.worker_id, len(parts.executor.running)))
        await self._config.announce.finish(min(DELIVERY_SECONDS, _share(ends, 0.9)))

    @property
    def attempts(self) -> int:
        """Return how many attempts a single pass has begun."""
        return 0 if self._single_pass is None else self._single_pass.attempts

    @property
    def pass_error(self) -> Exception | None:
        """Return why a single pass ended early, None if it did not."""
        return None if self._single_pass is None else self._single_pass.error

    def trouble(self) -> str | None:
        """Return what is wrong, None if the worker works."""
        for loop, _ in self._tasks.values():
            if reason := loop.trouble():
                return reason
        return self._parts.sentinel.trouble() or self._schema_problem

    def diagnosis(self) -> Diagnosis:
        """Return the state of the parts."""
        return self._parts.diagnosis()

    async def _end(self, names: Sequence[str], seconds: float, moment: float) -> None:
        """Stop loops after their current step; after `seconds` cancel them, and wait for at most `moment` seconds."""
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
        """Release jobs of an interrupted claim: they have not started, and must not count as crashed."""
        if self._parts.claimer.holder is not None:
            with suppress(Exception):  # then the reaper of another worker takes them over
                async with asyncio.timeout(seconds):
                    await self._parts.claimer.release_unknown(self._parts.claimer.holder)

    async def _drained(self, seconds: float, hurry: asyncio.Event | None = None) -> bool:
        """Wait until no attempt runs, for at most `seconds`, or until `hurry` is set; return whether none runs."""
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
        """Await work for at most `seconds`, or until the worker is to stop; raise what it raises."""
        task, drain = asyncio.create_task(work), asyncio.create_task(self._drain.wait())
        try:
            await asyncio.wait([task, drain], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            drain.cancel()
            task.cancel()

    async def _check_schema_at_start(self) -> None:
        try:
            await self._unless_draining(self._check_schema(), START_SECONDS)
        except SchemaError:
            raise
        except Exception as error:
            self._unreachable(error)
        else:
            if not self._parts.may_claim and not self._drain.is_set():
                self._unreachable(TimeoutError(f"no answer within {START_SECONDS:g} s"))

    def _unreachable(self, error: Exception) -> None:
        if self._config.startup == "fail":
            raise WorkerError(f"The database cannot be reached: {error!r}") from error
        logger.warning("The database cannot be reached (%r); no job is run until it can.", error)

    async def _check_schema(self) -> None:
        async with asyncio.timeout(2 * START_SECONDS):
            problem = await self._config.store.check_schema()
        if problem is not None and problem != self._schema_problem:
            logger.warning("%s", problem)
        self._schema_problem = problem
        self._parts.may_claim = True

    async def _watch_schema(self) -> float:
        """Check the schema before the first claim, if the database could not be reached at the start; and every minute,
        because it may be migrated to a version that does not support this pqlite: then nothing is claimed any more.
        """
        parts, self._schema_checks = self._parts, self._schema_checks + 1
        if parts.may_claim and self._schema_checks == 1:
            return SCHEMA_SECONDS
        could = parts.may_claim
        try:
            await self._check_schema()
        except SchemaError:
            parts.may_claim = False
            raise
        except Exception:
            if not could:
                raise
            return SCHEMA_SECONDS  # the other loops report that the database cannot be reached
        if not could:
            parts.claimer_loop.wake()
        return SCHEMA_SECONDS

    def _tick(self) -> None:
        self._parts.sentinel.tick()
        if _uvicorn_is_stopping():
            self._drain.set()
        self._ticking = asyncio.get_running_loop().call_later(TICK, self._tick)


def _left(ends: float) -> float:
    return ends - time.monotonic()


def _share(ends: float, share: float) -> float:
    """Return a share of the time that is left, at least 0.02 s."""
    return max(_left(ends) * share, 0.02)


def _uvicorn_is_stopping() -> bool:
    """Return whether uvicorn has begun to stop. It does not report that, and ends the lifespan only after the last
    request; but its signal handler is a method of the server object, which has a flag.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(server, "should_exit", False) is True
