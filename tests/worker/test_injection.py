"""Dependencies: made once for each attempt, closed after it, replaced in tests, never a part of the payload."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial, wraps
from typing import Any

import pytest

from pqlite import ConfigurationError, Depends, Fail, Handlers, JobContext, JobStatus, PayloadError, PgJobStore, Snooze
from pqlite.events import JobEnded
from tests.support import EventLog, ended, settled
from tests.worker.conftest import Run


class Book:
    """What happened, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.threads: set[threading.Thread] = set()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self.threads.add(threading.current_thread())


@pytest.fixture
def book() -> Book:
    return Book()


class Chain:
    """Dependencies of each kind, one inside the other, that write into a book."""

    def __init__(self, book: Book) -> None:
        def function(ctx: JobContext) -> str:
            book("function")
            return f"job {ctx.job.id}"

        async def coroutine(inner: str = Depends(function)) -> str:
            book("coroutine")
            return inner + "+coroutine"

        def generator(inner: str = Depends(coroutine)) -> Iterator[str]:
            book("generator opens")
            try:
                yield inner + "+generator"
            except BaseException as error:
                book(f"generator sees {type(error).__name__}")
                raise
            finally:
                book("generator closes")

        async def async_generator(
            inner: str = Depends(generator), again: str = Depends(function)
        ) -> AsyncIterator[str]:
            book("async generator opens")
            try:
                yield inner + "+async"
            except BaseException as error:
                book(f"async generator sees {type(error).__name__}")
                raise
            finally:
                await asyncio.sleep(0)
                book("async generator closes")

        self.function, self.coroutine = function, coroutine
        self.generator, self.async_generator = generator, async_generator


OPENS = ["function", "coroutine", "generator opens", "async generator opens"]
CLOSES = ["async generator closes", "generator closes"]


@pytest.mark.parametrize("in_thread", [False, True])
async def test_dependencies_of_every_kind_are_made_once_in_order_and_closed_in_reverse(
    run: Run, store: PgJobStore, book: Book, in_thread: bool
) -> None:
    handlers, chain = Handlers(), Chain(book)

    async def coroutine(
        ctx: JobContext, n: int, whole: str = Depends(chain.async_generator), part: str = Depends(chain.function)
    ) -> list[Any]:
        book("handler")
        return [ctx.job.id, n, whole, part]

    def function(n: int, whole: str = Depends(chain.async_generator), part: str = Depends(chain.function)) -> list[Any]:
        assert threading.current_thread() is not threading.main_thread()
        book("handler")
        return [int(part.removeprefix("job ")), n, whole, part]

    handler: Any = handlers.job("t")(function if in_thread else coroutine)
    async with run(handlers):
        job = await ended(store, await store.enqueue(handler.new(7)))

    name = f"job {job.id}"
    assert job.result == [job.id, 7, f"{name}+coroutine+generator+async", name]
    assert book.lines == [*OPENS, "handler", *CLOSES]
    assert job.payload == {"n": 7}


@pytest.mark.parametrize("in_thread", [False, True])
async def test_what_a_handler_raises_is_seen_by_its_generators_and_decides_the_outcome(
    run: Run, store: PgJobStore, book: Book, in_thread: bool
) -> None:
    handlers, chain = Handlers(), Chain(book)

    async def coroutine(_: str = Depends(chain.async_generator)) -> None:
        raise Fail("no use")

    def function(_: str = Depends(chain.async_generator)) -> None:
        raise Fail("no use")

    handler: Any = handlers.job("t")(function if in_thread else coroutine)
    async with run(handlers):
        job = await ended(store, await store.enqueue(handler.new()))

    assert (job.status, job.last_error) == (JobStatus.FAILED, "no use")
    assert book.lines[4:] == [
        *("async generator sees Fail", "async generator closes", "generator sees Fail", "generator closes")
    ]


async def test_a_cancelled_attempt_closes_its_dependencies(
    run: Run, store: PgJobStore, log: EventLog, book: Book
) -> None:
    handlers, chain = Handlers(), Chain(book)
    entered = asyncio.Event()

    @handlers.job("t")
    async def handler(_: str = Depends(chain.async_generator)) -> None:
        entered.set()
        await asyncio.Event().wait()

    async with run(handlers):
        job_id = await store.enqueue(handler.new())
        await entered.wait()
        await store.cancel(job_id)
        job = await ended(store, job_id)

    assert job.status is JobStatus.CANCELLED
    assert [line for line in book.lines if "closes" in line] == CLOSES
    assert "generator sees CancelledError" in book.lines


@pytest.mark.parametrize("where", ["coroutine", "thread", "opening"])
@pytest.mark.parametrize(
    ("end", "seen_as", "status", "attempts"),
    [
        ("timeout", "TimeoutError", JobStatus.READY, 1),
        ("cancel", "cancelled", JobStatus.CANCELLED, 1),
        ("shutdown", None, JobStatus.READY, 0),
        ("lease", None, JobStatus.READY, 0),
    ],
)
async def test_however_an_attempt_is_stopped_each_dependency_is_closed_once(
    run: Run, store: PgJobStore, log: EventLog, book: Book, where: str, end: str, seen_as: str | None,
    status: JobStatus, attempts: int,
) -> None:  # fmt: skip
    handlers, loop = Handlers(), asyncio.get_running_loop()
    entered, never = asyncio.Event(), asyncio.Event()

    async def outer() -> AsyncIterator[None]:
        book("outer opens")
        try:
            yield
        finally:
            await asyncio.sleep(0)
            book("outer closes")

    async def inner(_: None = Depends(outer)) -> AsyncIterator[None]:
        try:
            if where == "opening":
                entered.set()
                await never.wait()
            yield
        finally:
            await asyncio.sleep(0)
            book("inner closes")

    async def coroutine(_: None = Depends(inner)) -> None:
        entered.set()
        await never.wait()

    def function(ctx: JobContext, _: None = Depends(inner)) -> None:
        loop.call_soon_threadsafe(entered.set)
        while ctx.stop_requested is None:
            time.sleep(0.01)
        raise {"timeout": TimeoutError}.get(ctx.stop_requested, RuntimeError)("cancelled")

    handler: Any = handlers.job("t")(function if where == "thread" else coroutine)
    async with run(handlers, shutdown_grace=0.0) as worker:
        job_id = await store.enqueue(handler.new(), timeout_seconds=0.1 if end == "timeout" else None)
        await entered.wait()
        if end == "cancel":
            await store.cancel(job_id)
        elif end == "lease":
            worker._running._parts.executor.cancel_all("lease")  # type: ignore[union-attr]
        if end != "shutdown":
            await log.wait_for(JobEnded)
        worker.begin_shutdown()
    job = await store.get(job_id)

    assert book.lines == ["outer opens", "inner closes", "outer closes"]
    assert (job.status, job.attempts) == (status, attempts)
    assert seen_as is None or seen_as in (job.last_error or "")


async def test_a_dependency_that_fails_is_a_failed_attempt_and_what_was_open_is_closed(
    run: Run, store: PgJobStore, book: Book
) -> None:
    handlers, chain = Handlers(), Chain(book)

    async def broken(_: str = Depends(chain.generator)) -> None:
        raise ConnectionError("no database")

    @handlers.job("t")
    async def handler(_: None = Depends(broken)) -> None:
        book("handler")

    async with run(handlers):
        job = await settled(store, await store.enqueue(handler.new()))

    assert job.status is JobStatus.READY
    assert "ConnectionError: no database" in (job.last_error or "")
    assert book.lines[-2:] == ["generator sees ConnectionError", "generator closes"]


async def test_a_dependency_that_fails_to_close_is_a_failed_attempt(run: Run, store: PgJobStore) -> None:
    handlers = Handlers()

    async def transaction() -> AsyncIterator[int]:
        yield 1
        raise ConnectionError("not committed")

    @handlers.job("t")
    async def handler(_: int = Depends(transaction)) -> str:
        return "done"

    async with run(handlers):
        job = await settled(store, await store.enqueue(handler.new()))

    assert (job.status, job.result) == (JobStatus.READY, None)
    assert "not committed" in (job.last_error or "")


def swallowing() -> Iterator[int]:
    try:
        yield 1
    except Exception:
        pass


async def swallowing_later() -> AsyncIterator[int]:
    try:
        yield 1
    except Exception:
        pass


@pytest.mark.parametrize("dependency", [swallowing, swallowing_later])
@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_generator_cannot_make_a_failure_a_success(
    run: Run, store: PgJobStore, dependency: Callable[..., Any], in_thread: bool
) -> None:
    handlers = Handlers()

    async def coroutine(_: int = Depends(dependency)) -> None:
        raise Fail("the work was not done")

    def function(_: int = Depends(dependency)) -> None:
        raise Fail("the work was not done")

    handler: Any = handlers.job("t")(function if in_thread else coroutine)
    async with run(handlers):
        job = await ended(store, await store.enqueue(handler.new()))

    assert (job.status, job.last_error) == (JobStatus.FAILED, "the work was not done")


@pytest.mark.parametrize("dependency", [swallowing, swallowing_later])
@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_generator_cannot_hide_a_failure_of_another_dependency(
    run: Run, store: PgJobStore, dependency: Callable[..., Any], in_thread: bool
) -> None:
    handlers = Handlers()

    def broken(_: int = Depends(dependency)) -> None:
        raise Fail("no database")

    async def coroutine(_: None = Depends(broken)) -> None: ...
    def function(_: None = Depends(broken)) -> None: ...

    handler: Any = handlers.job("t")(function if in_thread else coroutine)
    async with run(handlers):
        job = await ended(store, await store.enqueue(handler.new()))

    assert (job.status, job.last_error) == (JobStatus.FAILED, "no database")


@pytest.mark.parametrize("dependency", [swallowing, swallowing_later])
@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_generator_cannot_hide_a_failure_from_a_transaction_around_it(
    run: Run, store: PgJobStore, book: Book, dependency: Callable[..., Any], in_thread: bool
) -> None:
    handlers = Handlers()

    def transaction() -> Iterator[None]:
        try:
            yield
        except BaseException:
            book("rolled back")
            raise
        book("committed")

    async def coroutine(tx: None = Depends(transaction), inner: int = Depends(dependency)) -> None:
        raise Fail("the work was not done")

    def function(tx: None = Depends(transaction), inner: int = Depends(dependency)) -> None:
        raise Fail("the work was not done")

    handler: Any = handlers.job("t")(function if in_thread else coroutine)
    async with run(handlers):
        job = await ended(store, await store.enqueue(handler.new()))

    assert (job.status, book.lines) == (JobStatus.FAILED, ["rolled back"])


async def test_a_decorated_coroutine_has_run_before_its_dependencies_are_closed(
    run: Run, store: PgJobStore, book: Book
) -> None:
    handlers = Handlers()

    def connection() -> Iterator[int]:
        book("opens")
        yield 7
        book("closes")

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def plain(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return plain

    @handlers.job("t")
    @decorated
    async def handler(connection: int = Depends(connection)) -> int:
        await asyncio.sleep(0)
        book("handler")
        return connection

    async with run(handlers):
        job = await ended(store, await store.enqueue(handler.new()))

    assert (job.status, job.result) == (JobStatus.DONE, 7)
    assert book.lines == ["opens", "handler", "closes"]


async def test_a_coroutine_that_a_plain_function_returns_is_awaited_or_refused_in_a_thread(
    run: Run, store: PgJobStore
) -> None:
    handlers = Handlers()

    async def connect() -> str:
        return "connection"

    @handlers.job("coroutine")
    async def coroutine(connection: str = Depends(lambda: connect())) -> str:
        return connection

    @handlers.job("function", max_attempts=1)
    def function(connection: str = Depends(lambda: connect())) -> str:
        raise AssertionError

    async with run(handlers):
        done = await ended(store, await store.enqueue(coroutine.new()))
        failed = await ended(store, await store.enqueue(function.new()))

    assert done.result == "connection"
    assert "<lambda> returned a coroutine in a thread; make it an `async def`" in (failed.last_error or "")


async def test_plain_dependencies_of_a_plain_handler_live_in_its_thread(
    run: Run, store: PgJobStore, book: Book
) -> None:
    handlers = Handlers()

    def connection(ctx: JobContext) -> Iterator[int]:
        book("opens")
        yield ctx.job.id
        book("closes")

    def cursor(conn: int = Depends(connection)) -> int:
        book("cursor")
        return conn

    @handlers.job("t")
    def handler(cursor: int = Depends(cursor)) -> int:
        book("handler")
        return cursor

    async with run(handlers):
        job = await ended(store, await store.enqueue(handler.new()))

    assert job.result == job.id
    assert book.lines == ["opens", "cursor", "handler", "closes"]
    assert len(book.threads) == 1
    assert threading.current_thread() not in book.threads


async def test_every_attempt_has_dependencies_of_its_own(run: Run, store: PgJobStore) -> None:
    handlers = Handlers()
    made: list[object] = []

    class Client:
        def __init__(self, ctx: JobContext) -> None:
            made.append((ctx.job.id, ctx.attempt))

    @handlers.job("t", backoff=lambda _: 0)
    async def handler(ctx: JobContext, client: Client = Depends(Client)) -> None:
        if ctx.attempt == 1:
            raise ValueError

    async with run(handlers):
        first = await ended(store, await store.enqueue(handler.new()))
        second = await ended(store, await store.enqueue(handler.new()))

    assert made == [(job.id, attempt) for job in (first, second) for attempt in (1, 2)]


async def test_a_payload_that_does_not_fit_opens_nothing(run: Run, store: PgJobStore, book: Book) -> None:
    handlers, chain = Handlers(), Chain(book)

    @handlers.job("coroutine")
    async def coroutine(n: int, _: str = Depends(chain.async_generator)) -> None: ...

    @handlers.job("function")
    def function(n: int, _: str = Depends(chain.function)) -> None: ...

    async with run(handlers):
        for job_type in handlers:
            job = await ended(store, await store.enqueue(job_type, {"n": "x"}))
            assert job.status is JobStatus.FAILED

    assert book.lines == []


class Settings:
    async def __call__(self, ctx: JobContext) -> str:
        return "from an object"


async def test_a_dependency_may_be_an_object_a_method_or_a_partial(run: Run, store: PgJobStore) -> None:
    handlers = Handlers()

    class Shop:
        async def address(self) -> AsyncIterator[str]:
            yield "from a method"

    async def named(name: str = "", ctx: JobContext | None = None) -> str:
        assert ctx is not None
        return name

    settings, shop = Settings(), Shop()

    @handlers.job("t")
    async def handler(
        a: str = Depends(settings), b: str = Depends(shop.address), c: str = Depends(partial(named, "from a partial"))
    ) -> list[str]:
        return [a, b, c]

    async with run(handlers):
        job = await ended(store, await store.enqueue(handler.new()))

    assert job.result == ["from an object", "from a method", "from a partial"]


def test_injected_parameters_are_no_arguments_of_a_job() -> None:
    def get_number() -> int:
        return 1

    def sample(to: str, number: int = Depends(get_number), copies: int = 1) -> None: ...

    handler = Handlers().job("t")(sample)

    for args, kwargs in ((("a", 3), {}), (("a",), {"number": 3})):
        with pytest.raises(PayloadError, match="'number' of 't' is injected when the job runs"):
            handler.new(*args, **kwargs)  # type: ignore[arg-type]
    assert handler.new("a", copies=3).payload == {"to": "a", "copies": 3}


# Overrides


def get_name() -> str:
    return "real"


async def get_greeting(name: str = Depends(get_name)) -> str:
    return f"hello {name}"


async def test_dependencies_are_replaced_for_the_attempts_within_the_block_also_where_others_need_them(
    run: Run, store: PgJobStore
) -> None:
    handlers, app = Handlers(), Handlers()

    @handlers.job("coroutine", aliases=["old"])
    async def coroutine(greeting: str = Depends(get_greeting), name: str = Depends(get_name)) -> list[str]:
        return [greeting, name]

    @handlers.job("function")
    def function(name: str = Depends(get_name)) -> str:
        return name

    app.include(handlers)

    async def fake(ctx: JobContext) -> AsyncIterator[str]:
        yield f"fake {ctx.job.job_type}"

    async def results() -> list[Any]:
        return [(await ended(store, await store.enqueue(each))).result for each in ("coroutine", "function", "old")]

    async with run(app):
        before = await results()
        with app.override({get_name: fake}):
            within = await results()
            with app.override({get_name: lambda: "inner"}):
                inner = await results()
        after = await results()

    real: list[Any] = [["hello real", "real"], "real", ["hello real", "real"]]
    assert before == after == real
    assert within == [
        ["hello fake coroutine", "fake coroutine"],
        "fake function",
        ["hello fake old", "fake old"],
    ]
    assert inner[1] == "inner"


async def test_an_attempt_under_way_keeps_its_dependencies_when_they_are_replaced_in_all_workers(
    run: Run, store: PgJobStore, book: Book
) -> None:
    handlers = Handlers()
    entered, release = asyncio.Event(), asyncio.Event()

    async def real() -> AsyncIterator[str]:
        yield "real"
        book("real closes")

    async def fake() -> AsyncIterator[str]:
        yield "fake"
        book("fake closes")

    @handlers.job("t")
    async def handler(waits: bool, name: str = Depends(real)) -> str:
        if waits:
            entered.set()
            await release.wait()
        return name

    async with run(handlers, concurrency=1), run(handlers, concurrency=1):
        first = await store.enqueue(handler.new(True))
        await entered.wait()
        with handlers.override({real: fake}):
            second = await ended(store, await store.enqueue(handler.new(False)))
            release.set()
            results = [(await ended(store, first)).result, second.result]

    assert results == ["real", "fake"]
    assert book.lines == ["fake closes", "real closes"]


def test_overriding_what_no_job_depends_on_is_a_mistake() -> None:
    handlers = Handlers()
    handlers.job("t")(lambda name=Depends(get_name): name)

    with pytest.raises(ConfigurationError, match="No job here depends on <function get_greeting"):
        with handlers.override({get_greeting: get_name}):
            raise AssertionError


def test_a_replacement_that_needs_what_it_replaces_is_refused_and_changes_nothing() -> None:
    handlers = Handlers()
    handler = handlers.job("t")(lambda name=Depends(get_name): name)
    before = handler.injection

    def louder(name: str = Depends(get_name)) -> str:
        return name.upper()

    with pytest.raises(ConfigurationError, match="louder depends on itself"):
        with handlers.override({get_name: louder}):
            raise AssertionError
    assert handler.injection is before


async def test_a_handler_may_snooze_in_spite_of_its_dependencies(run: Run, store: PgJobStore, book: Book) -> None:
    handlers, chain = Handlers(), Chain(book)

    @handlers.job("t")
    async def handler(ctx: JobContext, _: str = Depends(chain.generator)) -> None:
        if ctx.job.claims == 1:
            raise Snooze(0)

    async with run(handlers):
        job = await ended(store, await store.enqueue(handler.new()))

    assert (job.status, job.attempts, job.claims) == (JobStatus.DONE, 1, 2)
    assert "generator sees Snooze" in book.lines
