"""What a worker puts around attempts: hooks, middleware, resources, and the job in every log record."""

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import anyio.to_thread
import pytest

from pqlite import (
    CallNext,
    ConfigurationError,
    Depends,
    Fail,
    Handlers,
    Hooks,
    JobContext,
    JobFields,
    JobStatus,
    LoopErrorPolicy,
    NewJob,
    PgJobStore,
    Snooze,
    Worker,
)
from pqlite.events import Event, JobSettled, JobStarted
from pqlite.worker import resources as resources_of_worker
from tests.support import EventLog, ended, settled
from tests.worker.conftest import Run


class Recorder:
    """Middleware and hooks that write down when they were called, and with what."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    def middleware(self, name: str) -> Any:
        async def around(ctx: JobContext, call_next: CallNext) -> Any:
            self.lines.append(f"{name} before")
            try:
                return await call_next(ctx)
            finally:
                self.lines.append(f"{name} after")

        return around

    def hooks(self, name: str) -> Hooks:
        async def before(ctx: JobContext) -> None:
            self.lines.append(f"{name} before {ctx.job.id}")

        def after(ctx: JobContext, *, result: Any, error: BaseException | None) -> None:
            self.lines.append(f"{name} after {ctx.job.id} {result!r} {error!r}")

        return Hooks(before, after)


@pytest.fixture
def seen() -> Recorder:
    return Recorder()


async def coroutine(ctx: JobContext) -> str:
    return "done"


def function(ctx: JobContext) -> str:
    assert threading.current_thread() is not threading.main_thread()
    return "done"


def typed_handlers() -> Handlers:
    handlers = Handlers()

    @handlers.job("t")
    def handler(ctx: JobContext, value: str = Depends(lambda: "done")) -> str:
        return value

    return handlers


@pytest.mark.parametrize(
    "handlers", [{"t": coroutine}, {"t": function}, typed_handlers()], ids=["coroutine", "function", "typed"]
)
async def test_hooks_and_middleware_are_around_every_handler_in_the_order_given(
    run: Run, store: PgJobStore, seen: Recorder, handlers: Any
) -> None:
    layers = [seen.middleware("one"), seen.middleware("two")]
    async with run(handlers, middleware=layers, hooks=[seen.hooks("first"), seen.hooks("second")]):
        job = await ended(store, await store.enqueue("t"))

    assert (job.status, job.result) == (JobStatus.DONE, "done")
    assert seen.lines == [
        f"first before {job.id}",
        f"second before {job.id}",
        *("one before", "two before", "two after", "one after"),
        f"second after {job.id} 'done' None",
        f"first after {job.id} 'done' None",
    ]


async def test_middleware_decides_what_an_attempt_returns_or_raises(run: Run, store: PgJobStore) -> None:
    async def fails(ctx: JobContext) -> None:
        raise ValueError("unlucky")

    async def lenient(ctx: JobContext, call_next: CallNext) -> Any:
        try:
            return {"result": await call_next(ctx)}
        except ValueError as error:
            raise Fail(f"hopeless: {error}") from error

    async with run({"t": coroutine, "fails": fails}, middleware=[lenient]):
        done = await ended(store, await store.enqueue("t"))
        failed = await ended(store, await store.enqueue("fails"))

    assert done.result == {"result": "done"}
    assert (failed.status, failed.last_error) == (JobStatus.FAILED, "hopeless: unlucky")


def with_asyncio() -> AbstractAsyncContextManager[Any]:
    return asyncio.timeout(0)


@asynccontextmanager
async def with_anyio() -> AsyncIterator[None]:
    with anyio.fail_after(0):
        yield


@pytest.mark.parametrize("limit", [with_asyncio, with_anyio])
async def test_middleware_that_loses_patience_with_a_thread_lets_no_job_run_beside_itself(
    run: Run, store: PgJobStore, limit: Callable[[], AbstractAsyncContextManager[Any]]
) -> None:
    expired = threading.Event()

    def function(ctx: JobContext) -> str:
        assert expired.wait(15)
        return f"attempt {ctx.attempt}"

    async def impatient(ctx: JobContext, call_next: CallNext) -> Any:
        async with limit():
            asyncio.get_running_loop().call_later(0.05, expired.set)
            return await call_next(ctx)

    async with run({"t": function}, middleware=[impatient], backoff=lambda _: 0):
        job = await ended(store, await store.enqueue("t"))

    assert (job.result, job.errors) == ("attempt 1", [])


async def test_middleware_need_not_call_the_handler(run: Run, store: PgJobStore) -> None:
    async def never(ctx: JobContext) -> None:
        raise AssertionError

    async def instead(ctx: JobContext, call_next: CallNext) -> str:
        return "instead"

    async with run({"t": never}, middleware=[instead]):
        job = await ended(store, await store.enqueue("t"))

    assert job.result == "instead"


async def test_a_hook_belongs_to_the_attempt_and_its_time(run: Run, store: PgJobStore) -> None:
    async def slow(ctx: JobContext, *, result: Any, error: BaseException | None) -> None:
        await asyncio.Event().wait()

    async with run({"t": coroutine}, hooks=Hooks(after_job=slow)):
        job = await settled(store, await store.enqueue("t", timeout_seconds=0.05))

    assert job.status is JobStatus.READY
    assert "timeout_seconds (0.05 s)" in (job.last_error or "")


async def test_a_hook_hears_of_every_end_and_changes_none_but_before(
    run: Run, store: PgJobStore, log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[tuple[str, str]] = []
    entered = asyncio.Event()

    async def before(ctx: JobContext) -> None:
        if ctx.job.job_type == "early":
            raise Snooze(3600, "not yet")

    async def after(ctx: JobContext, *, result: Any, error: BaseException | None) -> None:
        heard.append((ctx.job.job_type, type(error).__name__))
        raise RuntimeError("a broken hook")

    async def fails(ctx: JobContext) -> None:
        raise Fail("no")

    async def waits(ctx: JobContext) -> None:
        entered.set()
        await asyncio.Event().wait()

    handlers = {"t": coroutine, "fails": fails, "waits": waits, "early": coroutine}
    async with run(handlers, hooks=Hooks(before_job=before, after_job=after)):
        done = await ended(store, await store.enqueue("t"))
        failed = await ended(store, await store.enqueue("fails"))
        waiting = await store.enqueue("waits")
        await entered.wait()
        await store.cancel(waiting)
        cancelled = await ended(store, waiting)
        early = await store.enqueue("early")
        await log.wait_for(JobSettled, lambda event: event.outcome.job.id == early)
        snoozed = await store.get(early)

    assert heard == [("t", "NoneType"), ("fails", "Fail"), ("waits", "CancelledError")]
    assert [job.status for job in (done, failed, cancelled)] == ["DONE", "FAILED", "CANCELLED"]
    assert (snoozed.attempts, snoozed.last_error) == (0, "not yet")
    assert caplog.text.count("after_job failed for job") == 3
    caplog.clear()


wrong: Any = with_asyncio


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"middleware": [3]}, "middleware must be an async function"),
        ({"middleware": coroutine}, r"middleware must be a list, middleware=\[function\]"),
        ({"middleware": [coroutine]}, r"middleware must be an async function of \(ctx, call_next\); .* too many"),
        ({"middleware": [Hooks]}, r"middleware must be an async function of \(ctx, call_next\), not <class"),
        ({"hooks": Hooks(before_job=wrong)}, r"before_job must be a function of \(ctx\); of .*too many"),
        (
            {"hooks": Hooks(after_job=wrong)},
            r"after_job must be a function of \(ctx, \*, result, error\); of .*too many",
        ),
        ({"observers": coroutine}, r"observers must be a list, observers=\[function\]"),
        ({"shutdown_grace": "10"}, "shutdown_grace must be a number of seconds or a timedelta, not '10'"),
        ({"retain_done": "7 days"}, "retain_done must be a number of seconds or a timedelta, not '7 days'"),
        ({"retain_failed": -1}, "retain_failed must not be negative"),
        ({"observers": None}, "observers must be a list of functions, not None"),
        ({"middleware": None}, "middleware must be a list of functions, not None"),
        ({"concurrency": "10"}, "concurrency must be a whole number of 1 or more, not '10'"),
        ({"concurrency": True}, "concurrency must be a whole number of 1 or more, not True"),
        ({"idle_policy": 5}, "idle_policy must have a method next_sleep, as IdlePollPolicy has, not 5"),
        ({"loop_error_policy": LoopErrorPolicy}, "loop_error_policy must have a method next_sleep"),
        ({"hooks": coroutine}, "hooks must be Hooks"),
        ({"hooks": [coroutine]}, "hooks must be Hooks"),
        ({"resources": ["pool"]}, "resources must be a mapping, or a function"),
        ({"backoff": 3}, "backoff must be a BackoffPolicy or a function"),
    ],
)
async def test_what_cannot_be_called_as_it_will_be_is_refused(store: PgJobStore, options: Any, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        Worker(store, {"t": coroutine}, **options)


async def test_a_retention_may_be_given_in_seconds_like_all_durations(store: PgJobStore) -> None:
    settings = Worker(store, {"t": coroutine}, retain_done=0, retain_failed=1.5).settings

    assert (settings.retain_done, settings.retain_failed) == (timedelta(0), timedelta(seconds=1.5))


# Resources


async def test_resources_are_there_before_the_first_attempt_and_until_after_the_last(
    run: Run, store: PgJobStore
) -> None:
    happened: list[str] = []

    @asynccontextmanager
    async def resources() -> AsyncIterator[Mapping[str, str]]:
        happened.append("open")
        async with asyncio.TaskGroup():  # left in the task that entered it, or this fails
            yield {"greeting": "hello"}
        happened.append("closed")

    def greeting(ctx: JobContext) -> str:
        return str(ctx.resources["greeting"])

    handlers = Handlers()
    entered = asyncio.Event()

    @handlers.job("t")
    async def handler(ctx: JobContext, word: str = Depends(greeting)) -> str:
        entered.set()
        await ctx_stopping.wait()
        happened.append(word)
        return word

    job_id = await store.enqueue(handler.new())
    async with run(handlers, resources=resources) as worker:
        ctx_stopping = worker._drain
        await entered.wait()
        worker.begin_shutdown()

    assert happened == ["open", "hello", "closed"]
    assert (await store.get(job_id)).result == "hello"


async def test_a_mapping_of_resources_is_the_callers(run: Run, store: PgJobStore) -> None:
    given: dict[str, object] = {}
    found: list[Any] = []

    async def handler(ctx: JobContext) -> None:
        found.append(ctx.resources)

    async with run({"t": handler}, resources=given):
        await ended(store, await store.enqueue("t"))
    async with run({"t": handler}):
        await ended(store, await store.enqueue("t"))

    assert found == [{}, {}]
    assert found[0] is given


async def test_each_run_of_a_worker_has_resources_of_its_own_and_a_disabled_one_none(store: PgJobStore) -> None:
    opened: list[int] = []

    @asynccontextmanager
    async def resources() -> AsyncIterator[Mapping[str, int]]:
        opened.append(1)
        yield {"number": len(opened)}

    worker = Worker(store, {"t": lambda ctx: ctx.resources["number"]}, resources=resources)
    numbers = []
    for _ in range(2):
        async with worker:
            numbers.append((await ended(store, await store.enqueue("t"))).result)
    async with Worker(store, {"t": coroutine}, resources=resources, enabled=False):
        pass

    assert numbers == [1, 2]
    assert opened == [1, 1]


async def test_a_worker_whose_resources_cannot_be_made_does_not_start(store: PgJobStore) -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[Mapping[str, int]]:
        raise ConnectionError("no redis")
        yield {}

    @asynccontextmanager
    async def nothing() -> AsyncIterator[Any]:
        yield None

    with pytest.raises(ConnectionError, match="no redis"):
        async with Worker(store, {"t": coroutine}, resources=broken):
            raise AssertionError
    with pytest.raises(ConfigurationError, match=r"resources must yield a mapping .* not None"):
        async with Worker(store, {"t": coroutine}, resources=nothing):
            raise AssertionError


async def test_resources_that_are_no_context_manager_are_refused(store: PgJobStore) -> None:
    async def returned() -> Mapping[str, int]:
        return {}

    async def undecorated() -> AsyncIterator[Mapping[str, int]]:
        yield {}

    for resources in (returned, undecorated, dict):
        with pytest.raises(ConfigurationError, match=r"resources returned .* not an async context manager"):
            async with Worker(store, {"t": coroutine}, resources=resources):  # type: ignore[arg-type]
                raise AssertionError


async def test_a_start_that_is_cancelled_does_not_wait_for_resources(store: PgJobStore) -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def slow() -> AsyncIterator[Mapping[str, int]]:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        yield {}

    worker = Worker(store, {"t": coroutine}, resources=slow)
    starting = asyncio.create_task(worker.__aenter__())
    await entered.wait()
    starting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await starting
    assert cancelled.is_set()


async def test_a_start_that_is_cancelled_by_a_scope_and_fails_is_no_news(
    store: PgJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaints: list[object] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_exception_handler", lambda context: complaints.append(context["message"]))

    @asynccontextmanager
    async def broken() -> AsyncIterator[Mapping[str, int]]:
        try:
            scope.cancel()
            await asyncio.Event().wait()
        finally:
            raise LookupError
        yield {}

    with anyio.CancelScope() as scope:
        await Worker(store, {"t": coroutine}, resources=broken).run()
    gc.collect()

    assert scope.cancelled_caught
    assert complaints == []


async def test_a_worker_that_is_to_stop_does_not_wait_for_resources(store: PgJobStore) -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def slow() -> AsyncIterator[Mapping[str, int]]:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        yield {}

    worker = Worker(store, {"t": coroutine}, resources=slow)
    running = asyncio.create_task(worker.run())
    await entered.wait()
    worker.begin_shutdown()
    await asyncio.wait_for(running, 5)

    assert cancelled.is_set()
    entered.clear()
    starting = asyncio.create_task(worker.__aenter__())
    await entered.wait()
    worker.begin_shutdown()
    await asyncio.wait_for(starting, 5)  # the app goes on to start, and stops
    assert worker.trouble() == "the worker is stopping"
    await worker.__aexit__()


async def test_resources_that_do_not_close_stop_nothing(
    store: PgJobStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resources_of_worker, "CLOSE_SECONDS", 0.05)

    @asynccontextmanager
    async def broken() -> AsyncIterator[Mapping[str, int]]:
        yield {}
        raise ConnectionError("gone")

    @asynccontextmanager
    async def hanging() -> AsyncIterator[Mapping[str, int]]:
        yield {}
        await asyncio.Event().wait()

    for resources in (broken, hanging):
        async with Worker(store, {"t": coroutine}, resources=resources):
            job = await ended(store, await store.enqueue("t"))
        assert job.status is JobStatus.DONE

    assert caplog.text.count("The worker's resources did not close.") == 2
    assert "ConnectionError: gone" in caplog.text
    assert "TimeoutError" in caplog.text


# Logs


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.addFilter(JobFields())
        self.fields: dict[str, tuple[Any, ...]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        fields = record.__dict__
        found = (fields["job_id"], fields["job_type"], fields["attempt"])
        self.fields[record.getMessage()] = found if "tenant" not in fields else (*found, fields["tenant"])


async def test_every_record_of_an_attempt_names_its_job(run: Run, store: PgJobStore) -> None:
    records, library = Records(), logging.getLogger("a_library")
    handlers = Handlers()

    async def depends(ctx: JobContext) -> AsyncIterator[None]:
        library.warning("in a dependency")
        yield
        library.warning("in its end")

    @handlers.job("a")
    async def in_coroutine(_: None = Depends(depends)) -> None:
        async def child() -> None:
            await anyio.to_thread.run_sync(library.warning, "in a thread of a task")

        await asyncio.create_task(child())
        await ended(store, await store.enqueue("b"))
        library.warning("after another job")

    @handlers.job("b")
    def in_thread(ctx: JobContext) -> None:
        library.warning("in a function")
        ctx.log.warning("from the context", extra={"tenant": 7})

    root = logging.getLogger()
    root.addHandler(records)
    try:
        async with run(handlers, concurrency=2):
            library.warning("outside")
            job = await ended(store, await store.enqueue(in_coroutine.new()))
    finally:
        root.removeHandler(records)

    a, b = (job.id, "a", 1), (job.id + 1, "b", 1)
    assert {message: fields for message, fields in records.fields.items() if message in EXPECTED} == {
        "in a dependency": a,
        "in its end": a,
        "in a thread of a task": a,
        "after another job": a,
        "in a function": b,
        "from the context": (*b, 7),
        "outside": (None, None, None),
    }


EXPECTED = {
    *("in a dependency", "in its end", "in a thread of a task", "after another job"),
    *("in a function", "from the context", "outside"),
}


async def test_what_the_worker_logs_of_a_job_names_it(run: Run, store: PgJobStore) -> None:
    async def fails(ctx: JobContext) -> None:
        raise Fail("no")

    records = Records()
    logging.getLogger("pqlite").addHandler(records)
    try:
        async with run({"t": fails}):
            job = await ended(store, await store.enqueue("t"))
    finally:
        logging.getLogger("pqlite").removeHandler(records)

    assert [f for message, f in records.fields.items() if "failed" in message] == [(job.id, "t", 1)]


async def test_a_retry_is_another_attempt_in_the_log(run: Run, store: PgJobStore) -> None:
    records = Records()
    handlers = Handlers()

    @handlers.job("t", backoff=lambda _: 0)
    async def handler(ctx: JobContext) -> None:
        ctx.log.warning("attempt %s", ctx.attempt)
        if ctx.attempt == 1:
            raise ValueError

    logger = logging.getLogger("pqlite.jobs")
    logger.addHandler(records)
    try:
        async with run(handlers):
            job = await ended(store, await store.enqueue(handler.new()))
    finally:
        logger.removeHandler(records)

    assert records.fields == {"attempt 1": (job.id, "t", 1), "attempt 2": (job.id, "t", 2)}


async def test_the_start_of_an_attempt_is_not_logged_as_a_part_of_the_one_before(store: PgJobStore) -> None:
    started: dict[int, Any] = {}

    def note(event: Event) -> None:
        if isinstance(event, JobStarted):
            record = logging.makeLogRecord({})
            fields.filter(record)
            started[event.job.id] = record.__dict__["job_id"]

    fields = JobFields()
    ids = [verdict.id for verdict in await store.enqueue_many(100 * [NewJob(job_type="t")])]
    async with Worker(store, {"t": coroutine}, concurrency=2, observers=[note]):
        await ended(store, ids[-1])

    assert started == dict.fromkeys(ids)
