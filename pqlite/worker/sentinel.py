"""Says that this process is alive, hears what others say, and notices when either stops being true.

A daemon thread with an event loop and a connection of its own: a handler that blocks the worker's loop must not make
the worker look dead. What a blocked loop cannot stop, a held GIL can: the lease is far longer than any sane one.
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
from pqlite.worker.session import Session
from pqlite.worker.supervisor import Loop
from pqlite.worker.watchdog import Watchdog

logger = logging.getLogger(__name__)

TICK = 0.25
CONNECT_SECONDS = 10.0
RENEWAL_SECONDS = 3.0
"""A renewal that is not answered by then costs the connection."""
RECONNECT_SECONDS = 1.0
"""A connection that is lost for longer may have taken the lock with it: see SILENCE."""
LEASE_MARGIN = 4.0
"""A worker that cannot renew gives up this long before its lease ends, so that its handlers have time to stop."""
SILENCE = 6.0
"""... and this long after its last renewal if its lock may be free: others may judge it 8 s after that renewal."""


class Listener(Protocol):
    """What the sentinel tells the worker. Called on the worker's event loop."""

    def registered(self, holder: str) -> None:
        """The worker may claim as `holder`."""

    def fenced(self, holder: str, reason: str) -> None:
        """The worker can no longer prove that it is alive; it must stop what it runs."""

    def cancel_requested(self, claims: list[tuple[int, int]]) -> None:
        """Somebody asked to cancel these claims."""

    def schedule_due(self, seconds: float) -> None:
        """The next schedule is due in so many seconds."""

    def notified(self, everywhere: bool) -> None:
        """There may be something to claim; `everywhere`: also among what was looked at before."""

    def blocked(self, seconds: float, stack: str) -> None:
        """The worker's event loop stood still (told when it turns again)."""

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
        self._session = Session(
            channel,
            info["queues"],
            pooling=pooling,
            notified=lambda everywhere: self._tell(listener.notified, everywhere),
            renew=lambda: self._renewing.wake(),
        )
        self._shows_lock = False  # whether others may know of the lock, and judge the worker by it
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
        """Start the thread; `listener.registered` follows when the database is there.

        Raises:
            WorkerError: it ended at once.
        """
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise WorkerError(f"The sentinel cannot start: {self._failure!r}") from self._failure

    def tick(self) -> None:
        """Say that the worker's event loop turns."""
        self._watchdog.tick()

    def hurry(self) -> None:
        """Renew now: somebody heard that the worker was declared dead."""
        self._loop.call_soon_threadsafe(self._renewing.wake)

    @property
    def hears(self) -> bool:
        """Return whether notifications can come."""
        return self._session.hears

    def trouble(self) -> str | None:
        """Return why the worker is not registered, None if it is."""
        if self._holder is None or self._fenced:
            return f"the worker is not registered: {self._renewing.last_error!r}"
        return None

    async def stop(self, seconds: float) -> None:
        """Unregister and end the thread, within `seconds`. Cut short, it can be called again."""
        if not self._ended.done():
            with suppress(RuntimeError):  # the thread has just ended, and its loop with it
                self._loop.call_soon_threadsafe(self._stop, seconds)
            await asyncio.wait([self._ended], timeout=seconds)
        if not self._ended.done():
            # Such as a name that is being looked up, which cannot be interrupted. The thread is a daemon.
            logger.warning("The sentinel did not end in time; it is left behind.")
            return
        self._thread.join(0.1)  # its last act was to say that it has ended

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
            with suppress(RuntimeError):  # the worker's loop is closed: nobody waits any more
                self._main_loop.call_soon_threadsafe(self._set_ended)

    def _set_ended(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._engine = self._make_engine("sentinel", self._on_connect)
        self._renewing = self._loop_around("sentinel", self._renew)
        watching = self._loop_around("watch", self._watch)
        self._stopped = asyncio.Event()
        self._ready.set()
        tasks = [asyncio.create_task(loop.run()) for loop in (self._renewing, watching)]
        await self._stopped.wait()
        watching.stop()
        # A registration under way is waited for: its row must go as well.
        await asyncio.wait(tasks, timeout=self._seconds_to_stop)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await self._farewell()
        await self._engine.link.close(self._seconds_to_stop / 2)

    def _loop_around(self, name: str, once: Callable[[], Awaitable[float]]) -> Loop:
        return Loop(
            name,
            once,
            errors=LoopErrorPolicy(),  # not the user's: pauses that are too long would cost the lease
            failed=lambda *args: self._tell(self._listener.loop_failed, *args),
            recovered=lambda *args: self._tell(self._listener.loop_recovered, *args),
        )

    def _stop(self, seconds: float) -> None:
        self._seconds_to_stop = seconds * 0.35  # for a renewal under way, then to unregister, and half for the rest
        self._renewing.stop()
        self._stopped.set()

    async def _on_connect(self, conn: asyncpg.Connection[Any]) -> None:
        await self._session.begin(conn, self._engine.link.socket)
        conn.add_termination_listener(self._on_lost)

    def _on_lost(self, conn: Any) -> None:
        # Not where the link itself has thrown it away: that is an error like another, with its pause.
        if self._engine.link.holds(conn):
            self._renewing.wake()

    async def _renew(self) -> float:
        sent = time.monotonic()
        if self._holder is None:
            await self._register()
        else:
            await self._engine.link.connect(CONNECT_SECONDS)
            await self._session.lock(self._engine)
            key = self._session.lock_key
            self._shows_lock = self._shows_lock or key is not None
            try:
                wanted = await self._engine.renew(self._holder, self._lease, key, deadline=RENEWAL_SECONDS)
            except LeaseLost as error:
                if not self._fenced:  # else the watch has told the worker
                    self._fence(str(error))
                self._holder = None
                await self._register()
            else:
                self._shows_lock = key is not None
                if wanted:
                    self._tell(self._listener.cancel_requested, wanted)
        self._last_renewal = sent
        if self._fenced:
            self._fenced = False
            self._tell(self._listener.registered, self._holder)
        if self._engine.next_schedule is not None:
            self._tell(self._listener.schedule_due, self._engine.next_schedule)
        return self._renew_every

    async def _register(self) -> None:
        await self._engine.link.connect(CONNECT_SECONDS)
        holder = f"{self._label}-{secrets.token_hex(4)}"
        key = self._session.lock_key
        await self._engine.register(holder, self._label, key, self._lease, self._info)
        self._shows_lock = key is not None
        self._holder = holder
        self._fenced = True  # until the worker has been told

    async def _watch(self) -> float:
        if self._main_loop.is_closed():
            # Nobody stopped the worker, and nobody can any more: without this its lease would be renewed for ever.
            self._stop(2.0)
        self._watch_lease()
        if (block := self._watchdog.look()) is not None:
            self._tell(self._listener.blocked, *block)
        return TICK

    def _watch_lease(self) -> None:
        """Fence the worker before anybody else may judge it dead."""
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
        return self._session.server_is_down(self._engine.link.last_error)

    def _fence(self, reason: str) -> None:
        self._fenced = True
        self._tell(self._listener.fenced, self._holder, reason)

    async def _farewell(self) -> None:
        if self._holder is None:
            return
        try:
            async with asyncio.timeout(self._seconds_to_stop):
                await self._engine.unregister(self._holder)
        except Exception as error:
            # The row stays; the lock vanishes with the connection, and others take over what is left.
            logger.warning("The worker could not say goodbye (%r); others will notice.", error)

    def _tell(self, what: Callable[..., None], *args: Any) -> None:
        with suppress(RuntimeError):  # the worker's loop is closed
            self._main_loop.call_soon_threadsafe(what, *args)
