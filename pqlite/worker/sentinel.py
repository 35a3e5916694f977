"""Keeps the worker registered: renews its lease, holds its lock, receives notifications, and fences the worker when
that fails.

It runs in a daemon thread with an event loop and a connection of its own, so that a handler that blocks the worker's
loop does not make the worker count as dead. A handler that holds the GIL does block it; the lease is long enough for
that.

(Over 300 lines because its deadlines depend on each other.)
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol

import asyncpg

from pqlite.backoff import LoopErrorPolicy
from pqlite.errors import LeaseLost, WorkerError
from pqlite.store.engine import Engine
from pqlite.store.route import Pooling
from pqlite.worker.presence import Presence
from pqlite.worker.supervisor import Loop
from pqlite.worker.watchdog import Watchdog

logger = logging.getLogger(__name__)

TICK = 0.25
CONNECT_SECONDS = 10.0
RENEWAL_SECONDS = 3.0
"""If a renewal is not answered by then, the connection is closed."""
RECONNECT_SECONDS = 1.0
"""If the connection is lost for longer, the server may have released the lock: see SILENCE."""
LEASE_MARGIN = 4.0
"""A worker that cannot renew is fenced this long before its lease ends, so that its handlers have time to stop."""
SILENCE = 6.0
"""... or this long after its last renewal if its lock may be free: others may declare it dead 8 s after it."""


class Listener(Protocol):
    """The sentinel's callbacks. Called on the worker's event loop."""

    def registered(self, holder: str) -> None:
        """The worker may claim as `holder`."""

    def fenced(self, holder: str, reason: str) -> None:
        """The worker may be declared dead; it must stop its attempts."""

    def cancel_requested(self, claims: list[tuple[int, int]]) -> None:
        """These claims were asked to cancel."""

    def schedule_due(self, seconds: float) -> None:
        """The next schedule is due in so many seconds."""

    def notified(self, everywhere: bool) -> None:
        """There may be jobs to claim; `everywhere`: also behind the watermarks."""

    def paused(self) -> None:
        """A queue, a job type or a key was paused; jobs that were claimed and not started must be given back."""

    def blocked(self, seconds: float, stack: str) -> None:
        """The worker's event loop was blocked (called when it runs again)."""

    def loop_failed(self, name: str, error: Exception, failures: int) -> None:
        """The database could not be reached."""

    def loop_recovered(self, name: str, failures: int) -> None:
        """The database can be reached again."""


class Sentinel:
    """Registers the worker, renews its lease, holds its advisory lock, listens, and watches the worker's loop."""

    def __init__(
        self,
        *,
        make_engine: Callable[[str, Callable[[asyncpg.Connection[Any]], Awaitable[None]]], Engine],
        pooling: Callable[[], Pooling | None],
        label: str,
        channel: str,
        lease: timedelta,
        renew_every: timedelta,
        info: dict[str, Any],
        listener: Listener,
    ) -> None:
        self._make_engine = make_engine
        self._label = label
        self._lease = lease
        self._renew_every = renew_every.total_seconds()
        self._info = info
        self._listener = listener
        self._presence = Presence(
            channel,
            info["queues"],
            pooling=pooling,
            notified=lambda everywhere: self._call_worker(listener.notified, everywhere),
            paused=lambda: self._call_worker(listener.paused),
            renew=lambda: self._renewing.wake(),
        )
        self._shows_lock = False  # whether others may have read the lock's key, and check the lock
        self._holder: str | None = None
        self._fenced = False
        self._last_renewal = time.monotonic()
        self._main_loop = asyncio.get_running_loop()
        self._watchdog = Watchdog()
        self._thread = threading.Thread(target=self._run, name="pqlite sentinel", daemon=True)
        self._ready = threading.Event()
        self._failure: Exception | None = None
        self._ended: asyncio.Future[None] = self._main_loop.create_future()

    # Called from the worker's loop

    def start(self) -> None:
        """Start the thread; `listener.registered` is called when the database can be reached.

        Raises:
            WorkerError: the thread ended at once.
        """
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise WorkerError(f"The sentinel cannot start: {self._failure!r}") from self._failure

    def tick(self) -> None:
        """Record that the worker's event loop is running."""
        self._watchdog.tick()

    def renew_now(self) -> None:
        """Renew the lease now, because a claim was refused: the worker may have been declared dead."""
        self._loop.call_soon_threadsafe(self._renewing.wake)

    @property
    def listens(self) -> bool:
        """Return whether notifications can be received."""
        return self._presence.listens

    def trouble(self) -> str | None:
        """Return why the worker is not registered, None if it is."""
        if self._holder is None or self._fenced:
            return f"the worker is not registered: {self._renewing.last_error!r}"
        return None

    async def stop(self, seconds: float) -> None:
        """Unregister and end the thread, within `seconds`. If cancelled, it can be called again."""
        if not self._ended.done():
            with suppress(RuntimeError):  # the thread has just ended, and its loop with it
                self._loop.call_soon_threadsafe(self._stop, seconds)
            await asyncio.wait([self._ended], timeout=seconds)
        if not self._ended.done():
            # For example during a DNS lookup, which cannot be interrupted. The thread is a daemon.
            logger.warning("The sentinel's thread did not end in time.")
            return
        self._thread.join(0.1)  # it ends right after it has set `_ended`

    # In the thread

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._main())
        except Exception as error:
            if self._ready.is_set():
                raise
            self._failure = error
        finally:
            self._ready.set()
            with suppress(RuntimeError):  # the worker's loop is closed, and does not wait
                self._main_loop.call_soon_threadsafe(self._set_ended)

    def _set_ended(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._engine = self._make_engine("sentinel", self._on_connect)
        self._renewing = self._make_loop("sentinel", self._renew)
        watching = self._make_loop("watch", self._watch)
        self._stopped = asyncio.Event()
        self._ready.set()
        tasks = [asyncio.create_task(loop.run()) for loop in (self._renewing, watching)]
        await self._stopped.wait()
        watching.stop()
        # Wait for a registration under way: its row must be deleted as well.
        await asyncio.wait(tasks, timeout=self._seconds_to_stop)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await self._unregister()
        await self._engine.link.close(self._seconds_to_stop / 2)

    def _make_loop(self, name: str, once: Callable[[], Awaitable[float]]) -> Loop:
        return Loop(
            name,
            once,
            errors=LoopErrorPolicy(),  # not the user's: with long pauses the lease would end
            failed=lambda *args: self._call_worker(self._listener.loop_failed, *args),
            recovered=lambda *args: self._call_worker(self._listener.loop_recovered, *args),
        )

    def _stop(self, seconds: float) -> None:
        self._seconds_to_stop = seconds * 0.35  # for a running renewal, again to unregister, half of it to disconnect
        self._renewing.stop()
        self._stopped.set()

    async def _on_connect(self, conn: asyncpg.Connection[Any]) -> None:
        await self._presence.begin(conn, self._engine.link.socket)
        conn.add_termination_listener(self._on_lost)

    def _on_lost(self, conn: Any) -> None:
        # Not if the link closed it: then the operation failed, and the pause after that error applies.
        if self._engine.link.holds(conn):
            self._renewing.wake()

    async def _renew(self) -> float:
        sent = time.monotonic()
        if self._holder is None:
            await self._register()
        else:
            await self._engine.link.connect(CONNECT_SECONDS)
            await self._presence.lock(self._engine)
            key = self._presence.lock_key
            self._shows_lock = self._shows_lock or key is not None
            try:
                wanted = await self._engine.renew(self._holder, self._lease, key, deadline=RENEWAL_SECONDS)
            except LeaseLost as error:
                if not self._fenced:  # else `_watch_lease` has fenced the worker
                    self._fence(str(error))
                self._holder = None
                await self._register()
            else:
                self._shows_lock = key is not None
                if wanted:
                    self._call_worker(self._listener.cancel_requested, wanted)
        self._last_renewal = sent
        if self._fenced:
            self._fenced = False
            self._call_worker(self._listener.registered, self._holder)
        if self._engine.next_schedule is not None:
            self._call_worker(self._listener.schedule_due, self._engine.next_schedule)
        return self._renew_every

    async def _register(self) -> None:
        await self._engine.link.connect(CONNECT_SECONDS)
        holder = f"{self._label}-{secrets.token_hex(4)}"
        key = self._presence.lock_key
        await self._engine.register(holder, self._label, key, self._lease, self._info)
        self._shows_lock = key is not None
        self._holder = holder
        self._fenced = True  # until `_renew` has called `listener.registered`

    async def _watch(self) -> float:
        if self._main_loop.is_closed():
            # The worker was not stopped, and cannot be any more: without this its lease would be renewed for ever.
            self._stop(2.0)
        self._watch_lease()
        if (block := self._watchdog.check()) is not None:
            self._call_worker(self._listener.blocked, *block)
        return TICK

    def _watch_lease(self) -> None:
        """Fence the worker before others may declare it dead."""
        if self._holder is None or self._fenced:
            return
        silent = time.monotonic() - self._last_renewal
        if silent > self._lease.total_seconds() - LEASE_MARGIN:
            self._fence(f"its lease could not be renewed for {silent:.0f} s")
        elif not self._shows_lock:
            return
        elif silent > SILENCE and not self._server_is_down() and self._disconnected_for() > RECONNECT_SECONDS:
            self._fence(f"its connection is lost and its lease could not be renewed for {silent:.0f} s")

    def _disconnected_for(self) -> float:
        link = self._engine.link
        return 0.0 if link.connected else time.monotonic() - link.lost_at

    def _server_is_down(self) -> bool:
        return self._presence.server_is_down(self._engine.link.last_error)

    def _fence(self, reason: str) -> None:
        self._fenced = True
        self._call_worker(self._listener.fenced, self._holder, reason)

    async def _unregister(self) -> None:
        if self._holder is None:
            return
        try:
            async with asyncio.timeout(self._seconds_to_stop):
                await self._engine.unregister(self._holder)
        except Exception as error:
            # The row stays. The lock is released with the connection, and others take over the remaining jobs.
            logger.warning("The worker could not unregister (%r); other workers take over what it left.", error)

    def _call_worker(self, what: Callable[..., None], *args: Any) -> None:
        with suppress(RuntimeError):  # the worker's loop is closed
            self._main_loop.call_soon_threadsafe(what, *args)
