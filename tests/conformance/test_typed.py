"""Declared jobs, and what stands around enqueueing and attempts, on either store."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pqlite import Depends, Handlers, InvalidJob, JobContext, JobStatus, NewJob, PgJobStore, Worker
from pqlite.testing import assert_enqueued, drain, inline
from tests.conformance.conftest import Store

handlers = Handlers()


def mailer() -> list[str]:
    raise AssertionError("not overridden")


@handlers.job("mail", queue="slow", priority=3, max_attempts=2)
async def mail(ctx: JobContext, to: int, sent: list[str] = Depends(mailer)) -> dict[str, Any]:
    sent.append(f"{to} for {ctx.resources['tenant']}")
    return {"to": to}


@pytest.fixture
def sent() -> list[str]:
    return []


async def test_a_declared_job_is_enqueued_with_its_defaults_and_run_by_a_drain(store: Store, sent: list[str]) -> None:
    await store.enqueue(mail.new(7))
    await store.enqueue(mail.new(8), queue="fast", run_after=timedelta(hours=1))
    await store.enqueue_many([mail.new(9)])
    await assert_enqueued(store, "mail", queue="slow", priority=3, max_attempts=2, count=2)
    await assert_enqueued(store, "mail", payload={"to": 8}, queue="fast", count=1)

    with handlers.override({mailer: lambda: sent}):
        jobs = await drain(store, handlers, resources={"tenant": "x"})

    assert [(job.status, job.result) for job in jobs] == [(JobStatus.DONE, {"to": n}) for n in (7, 9)]
    assert sent == ["7 for x", "9 for x"]


async def test_a_drain_and_a_single_pass_leave_payloads_that_are_too_new(store: Store) -> None:
    old, new = Handlers(), Handlers()

    @old.job("t")
    async def of_yesterday() -> str:
        return "old"

    @new.job("t", version=2)
    async def of_today() -> str:
        return "new"

    job_id = await store.enqueue(of_today.new())
    assert await drain(store, old) == []
    if isinstance(store, PgJobStore):
        assert await Worker(store=store, handlers=old).run_once() == 0
    assert (await store.get(job_id)).claims == 0

    [job] = await drain(store, new)
    assert (job.id, job.status, job.result) == (job_id, JobStatus.DONE, "new")


async def test_a_payload_beside_a_job_that_has_its_own_is_refused(store: Store) -> None:
    with pytest.raises(InvalidJob, match="has its payload already"):
        await store.enqueue(mail.new(7), {"to": 8})  # type: ignore[call-overload]


async def test_what_enqueue_middleware_makes_of_a_job_is_stored(make_store: Callable[..., Store]) -> None:
    def trace(job: NewJob) -> NewJob:
        return replace(job, metadata={"trace": "abc"})

    async with make_store(middleware=[trace]) as store:
        ids = [await store.enqueue("t"), *(verdict.id for verdict in await store.enqueue_many([{"job_type": "t"}]))]
        assert [(await store.get(job_id)).metadata for job_id in ids] == [{"trace": "abc"}] * 2


async def test_a_declared_job_runs_as_it_is_enqueued(store: Store) -> None:
    plain = Handlers()

    @plain.job("add")
    async def add(a: int, b: int) -> int:
        return a + b

    async with inline(store, plain):
        job_id = await store.enqueue(add.new(1, b=2))
        assert (await store.get(job_id)).result == 3
