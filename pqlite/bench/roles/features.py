"""A job that does nothing, declared in each possible way: its worker and its producer."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias
from uuid import UUID

from pydantic import BaseModel

from pqlite.bench.contenders.base import JOB_TYPE, Payload, Producer, Work
from pqlite.bench.contenders.ours import SCHEMA, run_worker
from pqlite.bench.roles.enqueuer import race
from pqlite.bench.roles.worker import serve
from pqlite.bench.wire import Spec, Wire
from pqlite.events import Event
from pqlite.handlers import AnyHandler, CallNext, Depends, Handlers, Hooks, JobContext
from pqlite.job import NewJob
from pqlite.observability import JobFields
from pqlite.store.postgres import PgJobStore

Started: TypeAlias = Callable[[Any], object]


class Order(BaseModel):
    """The payload of every job here."""

    i: int
    customer: UUID
    email: str
    due: datetime
    items: list[int]


async def work(spec: Spec, wire: Wire) -> None:
    """Run a worker whose job is declared in the way that `feature` names."""
    await serve(spec, wire, partial(_work, spec["feature"]))


async def _work(feature: str, work: Work) -> None:
    declare, options = DECLARED[feature]
    handlers = {JOB_TYPE: declare(work.started)}
    if feature == "unused":
        handlers["other"] = _everything(work.started)
    if feature in ("job fields", "everything"):
        handler = logging.StreamHandler()
        handler.addFilter(JobFields())
        logging.getLogger().addHandler(handler)
    await run_worker(work, handlers, **options)


def _plain(started: Started) -> AnyHandler:
    async def noop(ctx: JobContext) -> None:
        started(ctx.job.payload)

    return noop


def _logging(started: Started) -> AnyHandler:
    async def noop(ctx: JobContext) -> None:
        started(ctx.log)

    return noop


def _parameters(started: Started) -> AnyHandler:
    @Handlers().job(JOB_TYPE)
    async def noop(i: int, customer: UUID, email: str, due: datetime, items: list[int]) -> None:
        started(i)

    return noop


def _model(started: Started) -> AnyHandler:
    @Handlers().job(JOB_TYPE)
    async def noop(order: Order) -> None:
        started(order)

    return noop


def _context(started: Started) -> AnyHandler:
    @Handlers().job(JOB_TYPE)
    async def noop(ctx: JobContext, i: int, customer: UUID, email: str, due: datetime, items: list[int]) -> None:
        started(ctx)

    return noop


def _dependency(started: Started) -> AnyHandler:
    @Handlers().job(JOB_TYPE)
    async def noop(
        i: int, customer: UUID, email: str, due: datetime, items: list[int], given: object = Depends(_given)
    ) -> None:
        started(given)

    return noop


def _generator(started: Started) -> AnyHandler:
    @Handlers().job(JOB_TYPE)
    async def noop(
        i: int, customer: UUID, email: str, due: datetime, items: list[int], lent: object = Depends(_lent)
    ) -> None:
        started(lent)

    return noop


def _everything(started: Started) -> AnyHandler:
    @Handlers().job(JOB_TYPE)
    async def noop(
        ctx: JobContext,
        i: int,
        customer: UUID,
        email: str,
        due: datetime,
        items: list[int],
        given: object = Depends(_given),
        lent: object = Depends(_lent),
    ) -> None:
        started(ctx.log)

    return noop


def _given() -> object:
    return None


async def _lent() -> AsyncIterator[object]:
    yield None


def _before(ctx: JobContext) -> None:
    pass


def _after(ctx: JobContext, *, result: Any, error: BaseException | None) -> None:
    pass


async def _around(ctx: JobContext, call_next: CallNext) -> Any:
    return await call_next(ctx)


def _observe(event: Event) -> None:
    pass


_HOOKS: dict[str, Any] = {"hooks": Hooks(_before, _after)}
_MIDDLEWARE: dict[str, Any] = {"middleware": [_around]}
_OBSERVER: dict[str, Any] = {"observers": [_observe]}
_RESOURCES: dict[str, Any] = {"resources": {"pool": None}}

DECLARED: dict[str, tuple[Callable[[Started], AnyHandler], dict[str, Any]]] = {
    "plain": (_plain, {}),
    "unused": (_plain, _RESOURCES),
    "parameters": (_parameters, {}),
    "model": (_model, {}),
    "context": (_context, {}),
    "dependency": (_dependency, {}),
    "generator": (_generator, {}),
    "hooks": (_plain, _HOOKS),
    "middleware": (_plain, _MIDDLEWARE),
    "observer": (_plain, _OBSERVER),
    "job fields": (_plain, {}),
    "ctx.log": (_logging, {}),
    "everything": (_everything, _HOOKS | _MIDDLEWARE | _OBSERVER | _RESOURCES),
}
"""How the job's handler is made, and what the worker is given beside it."""


async def enqueue(spec: Spec, wire: Wire) -> None:
    """Enqueue the same job again and again, made in the way that `feature` names."""
    order = Order.model_validate(spec["payload"] | {"i": 0})
    makes = _makers(order)
    middleware = [_seen] if spec["feature"] == "middleware" else []
    async with PgJobStore(dsn=spec["dsn"], schema=SCHEMA, middleware=middleware) as store:
        await race(spec, wire, _Producer(store, makes[spec["feature"]]))


def _makers(order: Order) -> dict[str, Callable[[], NewJob]]:
    values = dict(order)

    @Handlers().job(JOB_TYPE)
    async def parameters(i: int, customer: UUID, email: str, due: datetime, items: list[int]) -> None: ...

    @Handlers().job(JOB_TYPE)
    async def model(order: Order) -> None: ...

    def plain() -> NewJob:
        return NewJob(job_type=JOB_TYPE, payload=dict(values))

    return {
        "plain": plain,
        "parameters": lambda: parameters.new(**values),
        "model": lambda: model.new(order),
        "middleware": plain,
    }


def _seen(job: NewJob) -> NewJob:
    return job


class _Producer(Producer):
    """Enqueues jobs that it makes itself, whatever payloads it is given."""

    def __init__(self, store: PgJobStore, make: Callable[[], NewJob]) -> None:
        self._store, self._make = store, make

    async def enqueue(self, payload: Payload, *, caller: int = 0) -> None:
        await self._store.enqueue(self._make())

    async def enqueue_many(self, payloads: Sequence[Payload]) -> None:
        await self._store.enqueue_many([self._make() for _ in payloads])
