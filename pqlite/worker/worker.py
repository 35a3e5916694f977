"""The public class Worker.

(It has more than 300 lines because a third of them document its arguments; the work is done elsewhere.)
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Literal

from pqlite.backoff import Backoff, BackoffPolicy, IdlePollPolicy, LoopErrorPolicy, policy_of
from pqlite.errors import WorkerError
from pqlite.events import Observer
from pqlite.events.announcer import Announcer
from pqlite.handlers import AnyHandler, Hooks, Middleware, checked
from pqlite.observability.logging import log_event
from pqlite.schedules import Schedule
from pqlite.settings import WorkerSettings, from_environment
from pqlite.store.postgres import PgJobStore
from pqlite.uninterrupted import uninterrupted
from pqlite.worker.arguments import (
    Duration,
    definitions,
    duration,
    one_of,
    queues_to_serve,
    sleep_policy,
    store_of,
    worker_label,
    wrappers,
)
from pqlite.worker.diagnosis import Diagnosis
from pqlite.worker.parts import WorkerConfig
from pqlite.worker.resources import Resources, open_resources, resources_of
from pqlite.worker.running import Running

logger = logging.getLogger(__name__)

EXIT, EXIT_SECONDS = 0.1, 1.0
"""The share of a stop, and the most seconds, that are left for the process to end."""
TAIL, TAIL_SECONDS = 0.2, 4.0
"""The share of a stop, and the most seconds, that are left for resources, observers and the store's pool."""


class Worker:
    """Runs the jobs of a store in this process, for as long as it is entered.

        app = FastAPI(lifespan=worker.lifespan)

    Args:
        store: the job store (a PgJobStore). If it is not started, the worker starts it, and closes it at the end.
        handlers: functions by job type, or a `Handlers` registry. Jobs of other types are left for other workers.
        concurrency: how many jobs run at once in this process.
        enabled: False runs no jobs (the store still works), so that the same code can serve an API-only process.
        enable_reaper: whether this process takes over the jobs of dead workers.
        enable_scheduler: whether this process fires schedules, those of the code and those that were added at run time.
        schedules: schedules beside those of `@handlers.cron` and `@handlers.every`, also for plain handlers. They are
            written to the database when the worker starts; a newer release wins over an older one. A schedule that no
            release defines any more is disabled after 5 minutes.
        idle_policy, backoff, loop_error_policy: how long to wait when idle, before a retry (a policy, or a function of
            the number of the failed attempt), after an error.
        reap_stale_every_seconds: how often RUNNING jobs that no registered worker owns are given back, if they are
            older than their `timeout_seconds`, or than `default_stale_after`.
        shutdown_grace: how long running jobs may go on after a stop; then they are cancelled.
        shutdown_timeout: how long a stop takes at most (seconds or timedelta, like all durations), including handlers,
            outcomes, `resources`, observers, and the store's pool if the worker opened it.
        worker_id: a label for people; "host-pid" by default. Two processes may share it.
        queues: which queues to serve; None serves all.
        lease: how long after its last renewal the worker counts as dead.
        retain_done, retain_failed: how long DONE, and FAILED or CANCELLED jobs are kept; None keeps them for ever.
            `retain_done=timedelta(0)` deletes jobs as part of their completion, which is faster (those that end in
            `ctx.complete()` are deleted soon after).
        unknown_job_types: "leave" jobs of unknown types to others, or "fail" them.
        startup: if the database cannot be reached, "wait" for it in the background while the app serves, or "fail".
        observers: called with every event (see pqlite.events), each in a thread of its own, or in a task if it is
            `async def`. Jobs do not wait for them, and do not fail when they raise. A worker that stops waits at most
            a second until they have received all events. `worker.events.subscribe` adds one later. The events also go
            to the logger `pqlite`.
        resources: the value of `ctx.resources`: a mapping, or a function that returns an async context manager of one.
            That is entered before the first claim, and exited after the last attempt (or when most of
            `shutdown_timeout` has passed); exiting may take 3 seconds of that.
        hooks: called before and after each attempt, outside of the middleware.
        middleware: `async def middleware(ctx, call_next)` around each attempt, the first one outermost.

    The environment wins over `enabled`, `concurrency`, `enable_reaper`, `enable_scheduler`, `reap_stale_every_seconds`,
    `default_stale_after`, `shutdown_grace` and `shutdown_timeout`: see pqlite.settings.

    Raises:
        ConfigurationError: an argument or a WORKER_* variable is invalid.
        InvalidSchedule: two schedules have the same name.
    """

    def __init__(
        self,
        store: PgJobStore,
        handlers: Mapping[str, AnyHandler],
        *,
        concurrency: int = 10,
        enabled: bool = True,
        enable_reaper: bool = True,
        enable_scheduler: bool = True,
        schedules: Sequence[Schedule] = (),
        idle_policy: IdlePollPolicy | None = None,
        backoff: Backoff | None = None,
        loop_error_policy: LoopErrorPolicy | None = None,
        reap_stale_every_seconds: Duration = 60.0,
        default_stale_after: Duration = timedelta(minutes=20),
        shutdown_grace: Duration = 10.0,
        shutdown_timeout: Duration = 25.0,
        worker_id: str | None = None,
        queues: Iterable[str] | None = None,
        lease: Duration = 20.0,
        retain_done: Duration | None = timedelta(days=7),
        retain_failed: Duration | None = timedelta(days=30),
        unknown_job_types: Literal["leave", "fail"] = "leave",
        startup: Literal["wait", "fail"] = "wait",
        observers: Sequence[Observer] = (),
        resources: Resources = None,
        hooks: Hooks | Sequence[Hooks] = (),
        middleware: Sequence[Middleware] = (),
    ) -> None:
        one_of("unknown_job_types", unknown_job_types, ("leave", "fail"))
        one_of("startup", startup, ("wait", "fail"))
        self.store = store_of(store)
        self.settings = from_environment(
            WorkerSettings(
                enabled=enabled,
                concurrency=concurrency,
                enable_reaper=enable_reaper,
                enable_scheduler=enable_scheduler,
                reap_stale_every=duration("reap_stale_every_seconds", reap_stale_every_seconds),
                default_stale_after=duration("default_stale_after", default_stale_after),
                shutdown_grace=duration("shutdown_grace", shutdown_grace),
                shutdown_timeout=duration("shutdown_timeout", shutdown_timeout),
                lease=duration("lease", lease),
                retain_done=None if retain_done is None else duration("retain_done", retain_done),
                retain_failed=None if retain_failed is None else duration("retain_failed", retain_failed),
            )
        )
        self.worker_id = worker_label(worker_id)
        self.events = Announcer(observers, log=log_event)
        self._config = WorkerConfig(
            store=store,
            handlers=checked(handlers),
            settings=self.settings,
            worker_id=self.worker_id,
            queues=queues_to_serve(queues),
            unknown_job_types=unknown_job_types,
            startup=startup,
            idle=sleep_policy("idle_policy", idle_policy, IdlePollPolicy),
            backoff=BackoffPolicy() if backoff is None else policy_of(backoff),
            loop_errors=sleep_policy("loop_error_policy", loop_error_policy, LoopErrorPolicy),
            announce=self.events,
            middleware=wrappers(hooks, middleware),
            definitions=definitions(schedules, handlers),
        )
        self._resources = resources_of(resources)
        self._task: asyncio.Task[None] | None = None
        self._running: Running | None = None
        self._drain = asyncio.Event()
        self._exit = asyncio.Event()
        self._hurry = asyncio.Event()
        self._forced = self._single_pass = self._stop_early = False
        self._attempts = 0
        self._failure: BaseException | None = None
        self._ends = 0.0
        self._pass_error: Exception | None = None

    def lifespan(self, app: object = None) -> AbstractAsyncContextManager[None]:
        """Return the worker's lifetime as an ASGI lifespan: `FastAPI(lifespan=worker.lifespan)`."""
        return self._lifespan()

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        async with self:
            yield

    async def __aenter__(self) -> Worker:
        """Start; return when the worker claims (or waits for its database). If this is cancelled, the worker stops.

        Raises:
            WorkerError: it is running already; or the database cannot be reached and startup='fail'.
            SchemaError: the database's schema does not support this pqlite.
            ConfigurationError: the store has only a pool.
        """
        if self._task is not None:
            raise WorkerError(
                "This worker is running already: it was entered twice. Give worker.lifespan to the app or to one "
                "router, not to both."
            )
        before = self._drain
        self._drain, self._exit, self._hurry = asyncio.Event(), asyncio.Event(), asyncio.Event()
        with suppress(RuntimeError):  # its waiters' event loop is closed
            before.set()
        if self._stop_early:
            self._drain.set()
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # One task runs it all, because a cancel scope must be entered and exited in the same task.
        self._task = asyncio.create_task(self._supervise(started), name="pqlite worker")
        try:
            await asyncio.shield(started)
        except BaseException:
            self._hurry.set()
            try:
                await self.__aexit__()
            finally:  # also if this is cancelled once more
                if started.done() and not started.cancelled():
                    started.exception()  # retrieved, so that asyncio does not log it: the cancellation is raised
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop within `shutdown_timeout`; if this is cancelled, skip the grace period (jobs are still given back)."""
        if self._task is None:
            return
        self.begin_shutdown()
        self._exit.set()
        await uninterrupted(self._join(self._task), on_cancel=self._hurry.set)

    async def _join(self, task: asyncio.Task[None]) -> None:
        await asyncio.wait([task])
        self._task, self._stop_early = None, False
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failure = failure
            logger.error("The worker did not stop cleanly.", exc_info=failure)

    def begin_shutdown(self) -> None:
        """Stop claiming now, and let running jobs end. The worker does so itself when uvicorn begins to stop.

        If called before the worker is entered, the next run claims nothing. Call it on the worker's event loop.
        """
        self._stop_early = self._task is None
        self._drain.set()

    @property
    def stopping(self) -> bool:
        """Return whether the worker has begun to stop: time to end streaming responses."""
        return self._drain.is_set()

    async def wait_stopping(self) -> None:
        """Return when the worker begins to stop. May be called before the worker is entered."""
        drain = None
        while drain is not self._drain:  # a run that has begun meanwhile has an event of its own
            drain = self._drain
            await drain.wait()

    def healthy(self) -> bool:
        """Return whether the worker works; if it is not enabled, whether it is entered."""
        return self.trouble() is None

    def trouble(self) -> str | None:
        """Return why the worker is not healthy, None if it is: for the body of a health endpoint."""
        if self._task is None or self._task.done():
            return "the worker is not running"
        if self._drain.is_set():
            return "the worker is stopping"
        if self._running is None:
            return None if not self._enabled else "the worker is starting"
        return self._running.trouble()

    def diagnosis(self) -> Diagnosis | None:
        """Return the worker's present state, None while it does not run."""
        return None if self._running is None else self._running.diagnosis()

    @property
    def _enabled(self) -> bool:
        return self.settings.enabled or self._forced

    async def run(self) -> None:
        """Run without a web server until `begin_shutdown` (or cancellation), even if `enabled` is False.

        SIGTERM begins the shutdown too, if this runs in the main thread and the signal has no handler. `asyncio.run`
        cancels it on SIGINT.

        Raises:
            WorkerError: it did not stop cleanly; and all that `__aenter__` raises.
        """
        await self._run(single_pass=False)

    async def run_once(self) -> int:
        """Run all due jobs, and those that become due by them, until there are none (or `begin_shutdown`), even if
        `enabled` is False; return how many attempts began. It takes over no jobs of dead workers, and deletes none.

        Raises: as `run`, and WorkerError if the database cannot be reached at the start, or if it cannot be reached or
            refuses the last outcomes for a minute.
        """
        await self._run(single_pass=True)
        if (error := self._pass_error) is not None:
            raise WorkerError(f"The database was away, or refused outcomes, for too long: {error!r}") from error
        return self._attempts

    async def _run(self, *, single_pass: bool) -> None:
        self._forced, self._single_pass = True, single_pass
        self._failure, self._pass_error, self._attempts = None, None, 0
        try:
            with _sigterm(self.begin_shutdown):
                async with self:
                    await self.wait_stopping()
        finally:
            self._forced = self._single_pass = False
        if self._failure is not None:
            raise WorkerError("The worker did not stop cleanly.") from self._failure

    async def _supervise(self, started: asyncio.Future[None]) -> None:
        owned, self._ends = not self.store.started, 0.0
        try:
            if owned:
                await self.store.start()
            try:
                await self._work(started)
            finally:
                if owned:
                    await self._close_store()
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _close_store(self) -> None:
        """Close the store in the time that is left for the stop."""
        try:
            async with asyncio.timeout(self._left()):
                await self.store.close()
        except TimeoutError:
            logger.warning("The store's connections did not close in time; they were cut off.")

    def _left(self) -> float:
        """Return how many seconds the stop may still take; a short time if it is over."""
        timeout = self.settings.shutdown_timeout.total_seconds()
        if not self._ends:
            self._ends = time.monotonic() + timeout
        return max(self._ends - time.monotonic(), min(TAIL_SECONDS, timeout * TAIL) / 2)

    async def _work(self, started: asyncio.Future[None]) -> None:
        if not self._enabled:
            started.set_result(None)
            await self._exit.wait()
            return
        async with AsyncExitStack() as stack:
            try:
                resources = await stack.enter_async_context(
                    open_resources(self._resources, self._drain, lambda: self._left() / 2)
                )
            except TimeoutError:
                if not self._drain.is_set():
                    raise
                started.set_result(None)  # stopped before it was started
                await self._exit.wait()
                return
            startup = "fail" if self._single_pass else self._config.startup
            config = replace(self._config, resources=resources, startup=startup)
            running = Running(config, self._drain, single_pass=self._single_pass)
            try:
                await running.start()
                self._running = running
                started.set_result(None)
                await self._drain.wait()
            finally:
                self._running = None
                timeout = self.settings.shutdown_timeout.total_seconds()
                self._ends = time.monotonic() + timeout - min(EXIT_SECONDS, timeout * EXIT)
                await self._stop(running, self._ends - min(TAIL_SECONDS, timeout * TAIL))
                self._attempts, self._pass_error = running.attempts, running.pass_error
        # The app may still serve requests that enqueue, so the store stays open until the lifespan ends.
        await self._exit.wait()

    async def _stop(self, running: Running, ends: float) -> None:
        """Stop the run completely. A cancellation (the event loop is ending) only skips the grace period."""
        cancelled: asyncio.CancelledError | None = None
        while True:
            stopping = asyncio.create_task(running.stop(self._hurry, ends))
            while not stopping.done():
                try:
                    await asyncio.wait([stopping])
                except asyncio.CancelledError as error:
                    cancelled = error
                    self._hurry.set()
            if not stopping.cancelled():
                break
            self._hurry.set()
        if cancelled is not None:
            raise cancelled
        stopping.result()


@contextmanager
def _sigterm(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGTERM, unless the signal has a handler already, or cannot have one."""
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    try:
        loop.add_signal_handler(signal.SIGTERM, stop)
    except (NotImplementedError, RuntimeError):  # Windows; an interpreter without signals
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
