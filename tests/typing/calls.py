"""What the type checkers say of calls of the public API. Lines marked `# E` are wrong, and all others right."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, assert_type

import asyncpg
from pydantic import BaseModel

from pqlite import (
    BackoffPolicy,
    CallNext,
    Constant,
    Depends,
    Enqueued,
    Event,
    Exponential,
    Handlers,
    Hooks,
    JobContext,
    JobId,
    JobStore,
    Linear,
    NewJob,
    PgJobStore,
    TypedJob,
    Worker,
)
from pqlite.testing import MemoryJobStore


class Order(BaseModel):
    lamp: int


@dataclass
class Receipt:
    number: int


class Mailer:
    async def send(self, to: str) -> None: ...


handlers = Handlers()


def get_pool(ctx: JobContext) -> asyncpg.Pool[asyncpg.Record]:
    pool: asyncpg.Pool[asyncpg.Record] = ctx.resources["pool"]
    return pool


async def get_mailer() -> Mailer:
    return Mailer()


async def get_connection(
    pool: asyncpg.Pool[asyncpg.Record] = Depends(get_pool),
) -> AsyncIterator[Mailer]:
    yield Mailer()


def get_number() -> Iterator[int]:
    yield 1


@handlers.job("send", queue="mail", max_attempts=3, timeout=timedelta(seconds=3), backoff=Exponential(base=1))
async def send(
    ctx: JobContext,
    to: str,
    copies: int = 1,
    *,
    at: datetime | None = None,
    pool: asyncpg.Pool[asyncpg.Record] = Depends(get_pool),
    mailer: Mailer = Depends(get_mailer),
    from_generator: Mailer = Depends(get_connection),
    number: int = Depends(get_number),
) -> Receipt:
    return Receipt(copies)


@handlers.job("resize", backoff=lambda attempts: attempts * 2.0, retry_on=(TimeoutError, OSError))
def resize(path: str, width: int) -> int:
    return width


@handlers.job("place", aliases=("order",), version=2, upgrade={1: lambda payload: payload})
async def place(order: Order) -> None: ...


@handlers.job("tidy", backoff=Linear(), never_retry_on=ValueError)
def tidy(ctx: JobContext) -> list[str]:
    return []


@handlers.job("poll", backoff=BackoffPolicy())
async def poll() -> str:
    return ""


@handlers.job("keep")
async def keep(data: Any, days: int = 1) -> int:
    return days


@handlers.job("count")
def count(data: object) -> int:
    return 1


class Shop:
    async def order(self, ctx: JobContext, lamp: int) -> Receipt:
        return Receipt(lamp)

    async def __call__(self, lamp: int) -> str:
        return ""


order_by_method = handlers.job("method")(Shop().order)
order_by_object = handlers.job("object")(Shop())


# A job has the handler's arguments, without the context, and carries its result.
assert_type(send.new("ada"), TypedJob[Receipt])
assert_type(send.new("ada", 2, at=datetime.now()), TypedJob[Receipt])
assert_type(send.new(to="ada", copies=2), TypedJob[Receipt])
assert_type(resize.new("a.png", width=3), TypedJob[int])
assert_type(place.new(Order(lamp=1)), TypedJob[None])
assert_type(tidy.new(), TypedJob[list[str]])
assert_type(poll.new(), TypedJob[str])
keep.new({"any": "thing"}, days=2)
assert_type(count.new(7), TypedJob[int])
assert_type(order_by_method.new(3), TypedJob[Receipt])
assert_type(order_by_object.new(lamp=3), TypedJob[str])
order_by_method.new("3")  # E
order_by_object.new()  # E
assert_type(send.new("ada").with_options(priority=3, run_after=timedelta(hours=1)), TypedJob[Receipt])
send.new()  # E
send.new(7)  # E
send.new("ada", "two")  # E
send.new("ada", 2, datetime.now())  # E
send.new("ada", copy=2)  # E
resize.new("a.png")  # E
place.new({"lamp": 1})  # E
tidy.new(1)  # E
poll.new(None)  # E
send.new("ada").with_options(priority="high")  # E
send.new("ada").with_options(prio=1)  # E
wrong: TypedJob[int] = send.new("ada")  # E


# An id knows the result.
async def wait(store: JobStore, pg: PgJobStore, memory: MemoryJobStore) -> None:
    assert_type(await store.enqueue(send.new("ada"), priority=1), JobId[Receipt])
    assert_type(await pg.enqueue(send.new("ada")), JobId[Receipt])
    assert_type(await memory.enqueue(send.new("ada")), JobId[Receipt])
    assert_type(await store.enqueue(NewJob(job_type="t")), int)
    assert_type(await store.enqueue("t", {"a": 1}), int)
    assert_type((await store.wait_for(await store.enqueue(send.new("ada")))).result, Receipt)
    assert_type((await pg.wait_for(send.job_id(3), timeout=timedelta(seconds=1))).result, Receipt)
    assert_type((await memory.wait_for(send.job_id(3), raise_on_failure=False)).result, Receipt | None)
    assert_type((await store.wait_for(3)).result, Any)
    verdicts = await store.enqueue_many(resize.new("a.png", width) for width in (1, 2))
    assert_type(verdicts, list[Enqueued[JobId[int]]])
    assert_type((await store.wait_for(verdicts[0].id)).result, int)
    assert_type(await pg.enqueue_many([NewJob(job_type="t")]), list[Enqueued[int]])
    assert_type(await memory.enqueue_many([{"job_type": "t"}]), list[Enqueued[int]])
    numbers: list[int] = [await store.enqueue(send.new("ada"))]
    wrong_ids: list[JobId[int]] = [await store.enqueue(send.new("ada"))]  # E
    assert numbers == wrong_ids
    resize("a.png", (await store.wait_for(send.job_id(3))).result)  # E
    await store.wait_for("3")  # E
    await store.wait_for(3, timeout="soon")  # E


# Called, it is the plain function.
assert_type(resize("a.png", 3), int)
resize("a.png", "3")  # E


async def call(ctx: JobContext) -> None:
    assert_type(await send(ctx, "ada", mailer=Mailer()), Receipt)
    assert_type(await poll(), str)
    assert_type(tidy(ctx), list[str])
    await send("ada")  # E
    await send(ctx)  # E
    await place(ctx, Order(lamp=1))  # E


# A dependency gives what the parameter is annotated with.
async def wrong_dependencies(
    a: Mailer = Depends(get_pool),  # E
    b: str = Depends(get_mailer),  # E
    c: str = Depends(get_number),  # E
) -> None: ...


Depends(3)  # E
with handlers.override({get_mailer: lambda: Mailer()}):
    pass
handlers.override({"get_mailer": lambda: Mailer()})  # E


# Wrong declarations.
@handlers.job()  # E
async def nameless() -> None: ...


@handlers.job("t", max_attempts="3")  # E
async def wrong_number() -> None: ...


@handlers.job("t", retry_on="TimeoutError")  # E
async def wrong_errors() -> None: ...


@handlers.job("t", backoff="slow")  # E
async def wrong_backoff() -> None: ...


@handlers.job("t", upgrade={"1": lambda payload: payload})  # E
async def wrong_upgrade() -> None: ...


handlers.job("t")(3)  # E
handlers.include({})  # E
Exponential(base="1 minute")  # E
Constant(60, 0.5)
send.job_type = 3  # E


async def enqueue(store: PgJobStore, any_store: JobStore) -> None:
    assert_type(await store.enqueue(send.new("ada")), JobId[Receipt])
    await store.enqueue(send.new("ada"), priority=2, dedupe_key="ada", run_after=timedelta(minutes=1), strict=True)
    await store.enqueue(NewJob(job_type="plain", payload={"n": 1}), queue="mail")
    await store.enqueue("plain", {"n": 1}, tags=["a"], metadata={"a": 1}, max_attempts=1, timeout_seconds=3)
    await store.enqueue(job_type="plain", payload=[1])
    await store.enqueue_many([send.new("ada"), resize.new("a.png", 1), NewJob(job_type="t"), {"job_type": "t"}])
    await store.enqueue_many(send.new(name) for name in ("ada", "bob"))
    mixed = [send.new("ada"), resize.new("a.png", 1)]
    await store.enqueue_many(mixed)
    await any_store.enqueue(send.new("ada"), priority=2)
    await any_store.enqueue("plain", {"n": 1}, priority=2)
    await store.enqueue(send.new("ada"), {"n": 1})  # E
    await store.enqueue(send)  # E
    await store.enqueue(send.new("ada"), priority="high")  # E
    await store.enqueue("plain", prio=1)  # E
    await store.enqueue("plain", tags=1)  # E
    await store.enqueue(7)  # E
    await store.enqueue_many(send.new("ada"))  # E
    await store.enqueue_many([send])  # E
    await any_store.enqueue(send.new("ada"), timeout=3)  # E


async def plain(ctx: JobContext) -> dict[str, Any]:
    ctx.log.info("attempt %s", ctx.attempt)
    return {"pool": ctx.resources["pool"]}


async def timed(ctx: JobContext, call_next: CallNext) -> object:
    return await call_next(ctx)


async def not_middleware(ctx: JobContext) -> object:
    return None


async def before(ctx: JobContext) -> None: ...


def after(ctx: JobContext, *, result: Any, error: BaseException | None) -> None: ...


def traced(job: NewJob) -> NewJob:
    return job


def forgetful(job: NewJob) -> None: ...


def listening(event: Event) -> None: ...


async def listening_too(event: Event) -> None: ...


def deaf() -> None: ...


@asynccontextmanager
async def resources() -> AsyncIterator[Mapping[str, object]]:
    yield {"mailer": Mailer()}


store = PgJobStore(dsn="", middleware=[traced])
PgJobStore(dsn="", middleware=[forgetful])  # E
heard: list[Event] = []
PgJobStore(dsn="", observers=[listening, listening_too, heard.append]).events.subscribe(listening)
PgJobStore(dsn="", observers=[deaf])  # E
Worker(store, handlers)
Worker(store, {"plain": plain, "function": lambda ctx: None})
Worker(store, {**handlers, "plain": plain})
Worker(store, handlers, resources=resources, hooks=Hooks(before, after), middleware=[timed])
Worker(store, handlers, resources={"mailer": Mailer()}, hooks=[Hooks(after_job=after)], backoff=lambda n: 2.0 * n)
Worker(store, handlers, observers=[listening, listening_too, heard.append]).events.unsubscribe(listening_too)
Worker(store, handlers, observers=[deaf])  # E
Worker(store, [plain])  # E
Worker(store, {"plain": "plain"})  # E
Worker(store, handlers, resources=[Mailer()])  # E
Worker(store, handlers, hooks=before)  # E
Worker(store, handlers, hooks=Hooks(after_job=before))  # E
Worker(store, handlers, middleware=[not_middleware])  # E
Worker(store, handlers, backoff=3)  # E
