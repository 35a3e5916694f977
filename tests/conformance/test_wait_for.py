"""Waiting for jobs to end, and for results of the type that their handler is annotated to return."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from pqlite import (
    ConfigurationError,
    Handlers,
    InvalidJob,
    JobFailed,
    JobId,
    JobNotFound,
    JobStatus,
    JobTimeoutError,
    NewJob,
    NotStarted,
    Snooze,
    UnexpectedResult,
    Worker,
)
from pqlite.testing import drain, inline
from tests.conformance.conftest import Store
from tests.support import until

handlers = Handlers()


@dataclass
class Receipt:
    number: UUID
    at: datetime
    total: Decimal


class Basket(BaseModel):
    lamps: dict[int, str]


RECEIPT = Receipt(UUID(int=7), datetime(2030, 1, 1, tzinfo=UTC), Decimal("1.10"))


@handlers.job("buy")
async def buy(lamps: int) -> Receipt:
    return RECEIPT


@handlers.job("fill")
async def fill() -> list[Basket]:
    return [Basket(lamps={1: "red"})]


@handlers.job("later")
async def later(n: int) -> int | Snooze:
    return n


@handlers.job("unsaid")
async def unsaid():  # type: ignore[no-untyped-def]
    return {"a": [1]}


@handlers.job("never")
async def never() -> None: ...


@handlers.job("lock")
async def lock() -> asyncio.Lock:
    raise AssertionError("not run")


async def test_the_result_is_what_the_handler_is_annotated_to_return(store: Store) -> None:
    async with inline(store, handlers):
        bought = await store.enqueue(buy.new(1))
        filled = (await store.enqueue_many([fill.new()]))[0].id
        numbered = await store.enqueue(later.new(3))
        plain = await store.enqueue(unsaid.new())
        nothing = await store.enqueue(never.new())

    outcome = await store.wait_for(bought)
    assert (outcome.id, outcome.status, outcome.result) == (bought, JobStatus.DONE, RECEIPT)
    assert (await store.wait_for(filled)).result == [Basket(lamps={1: "red"})]
    assert (await store.wait_for(numbered)).result == 3
    assert (await store.wait_for(plain)).result == {"a": [1]}
    assert (await store.wait_for(nothing)).result is None
    assert (await store.wait_for(buy.job_id(int(bought)))).result == RECEIPT


async def test_of_a_plain_id_the_result_is_the_json_value(store: Store) -> None:
    async with inline(store, handlers):
        job_id = int(await store.enqueue(buy.new(1)))

    outcome = await store.wait_for(job_id)

    assert outcome.result == {"number": str(RECEIPT.number), "at": "2030-01-01T00:00:00Z", "total": "1.10"}


async def test_ids_of_declared_jobs_are_ints_wherever_they_go(store: Store) -> None:
    job_id = await store.enqueue(buy.new(1), dedupe_key="k")
    (verdict,) = await store.enqueue_many([buy.new(1).with_options(dedupe_key="k")])

    assert type(job_id).__mro__[1] is JobId
    assert verdict == (job_id, False)
    assert type(verdict.id) is type(job_id)
    assert json.dumps(job_id) == str(job_id) == f"{job_id:d}"
    assert type(pickle.loads(pickle.dumps(job_id))) is int
    assert type(copy.deepcopy(job_id)) is int
    assert (await store.get(job_id)).id == job_id


async def test_ids_of_undeclared_jobs_are_plain_ints(store: Store) -> None:
    verdicts = await store.enqueue_many([NewJob(job_type="t"), {"job_type": "t"}])

    assert {type(each) for each in (await store.enqueue("t"), *(verdict.id for verdict in verdicts))} == {int}


@pytest.mark.usefixtures("postgres_only")
async def test_waiting_ends_when_the_job_does(store: Store) -> None:
    started, finish = asyncio.Event(), asyncio.Event()

    async def work(_ctx: Any) -> str:
        started.set()
        await finish.wait()
        return "ready"

    async with Worker(store=store, handlers={"t": work}):
        job_id = await store.enqueue("t")
        waiting = [asyncio.create_task(store.wait_for(job_id)) for _ in range(3)]
        await started.wait()
        assert not any(task.done() for task in waiting)
        finish.set()
        assert [(await task).result for task in waiting] == ["ready"] * 3


async def test_a_retry_is_not_the_end(store: Store) -> None:
    job_id = await store.enqueue("t")
    waiting = asyncio.create_task(store.wait_for(job_id))

    claimed = await store.pickup("me")
    assert claimed is not None
    await store.mark_error(claimed, "first", retry_after=timedelta(0))
    with pytest.raises(JobTimeoutError):
        await store.wait_for(job_id, timeout=0.05)
    again = await store.pickup("me")
    assert again is not None
    await store.mark_done(again, result=2)

    outcome = await waiting
    assert (outcome.result, [error["error"] for error in outcome.errors]) == (2, ["first"])


async def test_a_job_that_failed_is_an_error_with_its_errors(store: Store) -> None:
    async def work(_ctx: Any) -> None:
        raise ValueError("no such lamp")

    job_id = await store.enqueue("t", max_attempts=1)
    await drain(store, {"t": work}, raises=False)

    with pytest.raises(JobFailed, match=rf"^Job {job_id} is FAILED: ValueError: no such lamp$") as failed:
        await store.wait_for(job_id)
    outcome = await store.wait_for(job_id, raise_on_failure=False)

    assert (failed.value.job_id, failed.value.status) == (job_id, JobStatus.FAILED)
    assert failed.value.errors == outcome.errors
    assert "no such lamp" in outcome.errors[0]["error"]
    assert (outcome.status, outcome.result) == (JobStatus.FAILED, None)
    assert pickle.loads(pickle.dumps(failed.value)).errors == outcome.errors


async def test_a_job_that_was_cancelled_is_an_error_of_the_same_kind(store: Store) -> None:
    job_id = await store.enqueue("t")
    waiting = asyncio.create_task(store.wait_for(job_id))

    await store.cancel(job_id)

    with pytest.raises(JobFailed, match=f"Job {job_id} is CANCELLED") as failed:
        await waiting
    assert failed.value.status == JobStatus.CANCELLED


async def test_a_declared_job_that_did_not_end_as_done_has_no_result_to_be_read(store: Store) -> None:
    job_id = await store.enqueue(buy.new(1))
    await store.cancel(job_id)

    outcome = await store.wait_for(job_id, raise_on_failure=False)

    assert (outcome.status, outcome.result, outcome.errors) == (JobStatus.CANCELLED, None, [])


async def test_who_has_waited_long_enough_is_told_and_the_job_is_left_alone(store: Store) -> None:
    job_id = await store.enqueue("t")

    for timeout in (0, 0.02, timedelta(milliseconds=20)):
        with pytest.raises(JobTimeoutError, match=f"Job {job_id} has not ended within"):
            await store.wait_for(job_id, timeout=timeout)

    assert (await store.get(job_id)).status is JobStatus.READY


async def test_a_job_that_has_ended_needs_no_time(store: Store) -> None:
    async with inline(store, handlers):
        job_id = await store.enqueue(later.new(1))

    for timeout in (None, 0):
        assert (await store.wait_for(job_id, timeout=timeout)).result == 1


async def test_a_job_that_is_not_there_is_not_waited_for(store: Store) -> None:
    with pytest.raises(JobNotFound, match="404"):
        await store.wait_for(404, timeout=None)


async def test_a_job_that_is_not_committed_yet_is_not_waited_for(store: Store) -> None:
    async with store.transaction() as tx:
        job_id = await store.enqueue("t", conn=tx)
        with pytest.raises(JobNotFound, match="not committed yet"):
            await store.wait_for(job_id, timeout=None)


@pytest.mark.usefixtures("postgres_only")
async def test_a_job_that_is_deleted_as_it_ends_is_not_found_by_who_waits(store: Store) -> None:
    async def work(_ctx: Any) -> None: ...

    async with Worker(store=store, handlers={"t": work}, retain_done=timedelta(0)):
        with pytest.raises(JobNotFound):
            await store.wait_for(await store.enqueue("t"), timeout=None)


async def test_who_stops_waiting_disturbs_nobody(store: Store) -> None:
    job_id = await store.enqueue("t")
    waiting = [asyncio.create_task(store.wait_for(job_id, timeout=None)) for _ in range(2)]
    await asyncio.sleep(0)

    waiting[0].cancel()
    claimed = await store.pickup("me")
    assert claimed is not None
    await store.mark_done(claimed, result=1)

    assert (await waiting[1]).result == 1
    assert waiting[0].cancelled()


@pytest.mark.usefixtures("postgres_only")
async def test_many_wait_for_many(store: Store) -> None:
    async def work(ctx: Any) -> int:
        return int(ctx.job.payload["n"])

    verdicts = await store.enqueue_many({"job_type": "t", "payload": {"n": n}} for n in range(1500))
    async with Worker(store=store, handlers={"t": work}):
        outcomes = await asyncio.gather(*(store.wait_for(verdict.id) for verdict in verdicts))

    assert [outcome.result for outcome in outcomes] == list(range(1500))


async def test_a_result_that_does_not_fit_is_said_to_be_there(store: Store) -> None:
    job_id = await store.enqueue(buy.new(1))
    claimed = await store.pickup("me")
    assert claimed is not None
    await store.mark_done(claimed, result={"number": "7", "at": "2030-01-01", "total": 1})

    with pytest.raises(UnexpectedResult, match="result of 'buy' does not fit: number: Input should be a valid UUID"):
        await store.wait_for(job_id)
    assert (await store.wait_for(int(job_id))).result["number"] == "7"


async def test_a_return_annotation_that_is_no_data_is_told_to_who_waits_for_it(store: Store) -> None:
    job_id = await store.enqueue(lock.new())
    claimed = await store.pickup("me")
    assert claimed is not None
    await store.mark_done(claimed)

    with pytest.raises(ConfigurationError, match=r"handler of 'lock' returns .*Lock.*cannot be read from JSON"):
        await store.wait_for(job_id)


async def test_what_middleware_makes_of_a_declared_job_decides_what_is_waited_for(
    make_store: Callable[..., Store],
) -> None:
    def other(job: NewJob) -> NewJob:
        return NewJob(job_type="other")

    async with make_store(middleware=[other]) as store:
        assert type(await store.enqueue(buy.new(1))) is int


@pytest.mark.parametrize(
    "wrong",
    [{"timeout": "soon"}, {"timeout": "10"}, {"timeout": float("nan")}, {"poll_interval": 0}, {"poll_interval": None}],
    ids=repr,
)
async def test_what_is_no_duration_is_refused(store: Store, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="seconds or timedeltas"):
        await store.wait_for(1, **wrong)


async def test_what_is_no_id_is_refused(store: Store) -> None:
    job = await store.get(await store.enqueue("t", {"secret": 1}))
    with pytest.raises(InvalidJob, match=r"whole number, not a Job$"):
        await store.wait_for(job)  # type: ignore[call-overload]


async def test_a_store_that_is_not_started_or_was_closed_waits_for_nobody(fresh_store: Store) -> None:
    with pytest.raises(NotStarted):
        await fresh_store.wait_for(1)
    await fresh_store.start()
    job_id = await fresh_store.enqueue("t")
    waiting = asyncio.create_task(fresh_store.wait_for(job_id, timeout=None))
    await until(lambda: not waiting.done())

    await fresh_store.close()

    with pytest.raises(NotStarted):
        await waiting
