"""Declared jobs, from `new` to the result: their arguments, versions, names and retries."""

import asyncio
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel

from pqlite import (
    BackoffPolicy,
    Cancel,
    Fail,
    Handlers,
    Job,
    JobContext,
    JobStatus,
    NewJob,
    PgJobStore,
    RetryAfter,
    Worker,
)
from pqlite.events import JobSettled
from tests.support import EventLog, ended, settled
from tests.worker.conftest import Run


class Order(BaseModel):
    id: UUID
    lamps: int = 1


@pytest.mark.parametrize("as_coroutine", [True, False])
@pytest.mark.parametrize("with_context", [True, False])
async def test_a_handler_gets_the_arguments_of_its_job(
    run: Run, store: PgJobStore, as_coroutine: bool, with_context: bool
) -> None:
    handlers = Handlers()
    called: list[tuple[Any, ...]] = []
    declare = handlers.job("t")

    def note(*args: Any) -> dict[str, Any]:
        called.append((*args, threading.current_thread() is threading.main_thread()))
        return {"order": args[-2]}

    if as_coroutine and with_context:

        @declare
        async def coroutine(ctx: JobContext, order: Order, wait: timedelta = timedelta(0)) -> dict[str, Any]:
            return note(ctx.job.id, order, wait)

        job = coroutine.new(Order(id=UUID(int=7)), wait=timedelta(minutes=2))
    elif as_coroutine:

        @declare
        async def bare(order: Order, wait: timedelta = timedelta(0)) -> dict[str, Any]:
            return note(0, order, wait)

        job = bare.new(Order(id=UUID(int=7)), wait=timedelta(minutes=2))
    elif with_context:

        @declare
        def function(ctx: JobContext, order: Order, wait: timedelta = timedelta(0)) -> dict[str, Any]:
            return note(ctx.job.id, order, wait)

        job = function.new(Order(id=UUID(int=7)), wait=timedelta(minutes=2))
    else:

        @declare
        def plain(order: Order, wait: timedelta = timedelta(0)) -> dict[str, Any]:
            return note(0, order, wait)

        job = plain.new(Order(id=UUID(int=7)), wait=timedelta(minutes=2))

    async with run(handlers):
        done = await ended(store, await store.enqueue(job))

    assert done.status is JobStatus.DONE
    # What was not set stays out: the handler gets the default, and sees that it was not set.
    assert done.payload == {"order": {"id": str(UUID(int=7))}, "wait": "PT2M"}
    assert called == [(done.id if with_context else 0, Order(id=UUID(int=7)), timedelta(minutes=2), as_coroutine)]
    assert done.result == {"order": {"id": str(UUID(int=7)), "lamps": 1}}


async def test_a_declared_function_runs_beside_plain_handlers(run: Run, store: PgJobStore) -> None:
    handlers = Handlers()

    @handlers.job("typed")
    async def typed(n: int) -> int:
        return n + 1

    async def plain(ctx: JobContext) -> Any:
        return ctx.job.payload

    async with run({**handlers, "plain": plain, "renamed": typed}):
        jobs = [NewJob(job_type="plain", payload=[1]), typed.new(1), NewJob(job_type="renamed", payload={"n": 5})]
        ids = [verdict.id for verdict in await store.enqueue_many(jobs)]
        results = [(await ended(store, job_id)).result for job_id in ids]

    assert results == [[1], 2, 6]


async def test_a_payload_that_cannot_fit_fails_at_once_with_the_sentence(run: Run, store: PgJobStore) -> None:
    handlers = Handlers()

    @handlers.job("t")
    async def handler(to: str, copies: int = 1) -> None:
        raise AssertionError

    async with run(handlers):
        job = await ended(store, await store.enqueue("t", {"to": 7, "copies": "x"}))

    assert (job.status, job.attempts) == (JobStatus.FAILED, 1)
    assert job.last_error == (
        "The payload does not fit the handler of 't': to: Input should be a valid string; "
        "copies: Input should be a valid integer, unable to parse string as an integer"
    )


async def test_jobs_of_old_names_and_versions_are_run_by_the_handler_of_today(run: Run, store: PgJobStore) -> None:
    handlers = Handlers()

    @handlers.job("send_mail", aliases=["send", "mail"], version=3, upgrade={1: lambda p: {"to": p["address"]}})
    async def send_mail(to: str, subject: str = "") -> str:
        return to + subject

    async with run(handlers):
        ids = [
            await store.enqueue("send", {"address": "ada"}),
            await store.enqueue("mail", {"to": "bob"}, metadata={"payload_version": 2}),
            await store.enqueue(send_mail.new("eve", "!")),
        ]
        jobs = [await ended(store, job_id) for job_id in ids]

    assert [(job.job_type, job.result) for job in jobs] == [("send", "ada"), ("mail", "bob"), ("send_mail", "eve!")]
    assert jobs[2].metadata == {"payload_version": 3}


async def test_an_upgrade_that_raises_is_an_error_like_the_handlers(run: Run, store: PgJobStore) -> None:
    handlers = Handlers()

    def upgrade(payload: Any) -> Any:
        return payload["missing"]

    @handlers.job("t", version=2, upgrade={1: upgrade})
    async def handler() -> None: ...

    async with run(handlers):
        job = await settled(store, await store.enqueue("t"))

    assert job.status is JobStatus.READY
    assert "KeyError: 'missing'" in (job.last_error or "")


async def test_jobs_whose_payload_is_too_new_wait_untouched_for_a_newer_worker(run: Run, store: PgJobStore) -> None:
    old, new = Handlers(), Handlers()

    @old.job("t")
    async def of_yesterday(address: str) -> str:
        return f"old {address}"

    @new.job("t", version=2, upgrade={1: lambda p: {"to": [p["address"]]}})
    async def of_today(to: list[str]) -> str:
        return f"new {to}"

    # Both producers are at work, and both workers: the old one first, alone.
    ids = [await store.enqueue(each) for each in (of_yesterday.new("a"), of_today.new(["b"]))]
    once = await store.enqueue(of_today.new(["c"]), max_attempts=1)
    async with run(old):
        await ended(store, await store.enqueue(of_yesterday.new("later")))
        left = [await store.get(job_id) for job_id in (ids[1], once)]
        async with Worker(store=store, handlers=new):
            jobs = [await ended(store, job_id) for job_id in (*ids, once)]

    assert [(job.status, job.attempts, job.claims) for job in left] == 2 * [(JobStatus.READY, 0, 0)]
    assert [(job.status, job.attempts, job.claims) for job in jobs] == 3 * [(JobStatus.DONE, 1, 1)]
    assert [job.result for job in jobs] == ["old a", "new ['b']", "new ['c']"]


class Recording(BackoffPolicy):
    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.asked: list[int] = []

    def retry_delay(self, attempts: int) -> float:
        self.asked.append(attempts)
        return self.delay


async def test_a_job_type_has_its_own_backoff_and_others_the_workers(run: Run, store: PgJobStore) -> None:
    handlers = Handlers()
    own, workers = Recording(0.01), Recording(0.02)

    @handlers.job("own", backoff=own, max_attempts=2)
    async def with_policy() -> None:
        raise ValueError

    @handlers.job("function", backoff=lambda attempts: timedelta(hours=attempts))
    async def with_function() -> None:
        raise ValueError

    @handlers.job("none", max_attempts=2)
    async def without() -> None:
        raise ValueError

    async with run(handlers, backoff=workers):
        failed = [await ended(store, await store.enqueue(job)) for job in (with_policy.new(), without.new())]
        waits = await settled(store, await store.enqueue(with_function.new()))

    assert [(job.status, job.attempts) for job in failed] == 2 * [(JobStatus.FAILED, 2)]
    assert (own.asked, workers.asked) == ([1, 2], [1, 2])
    assert waits.updated_at is not None
    assert waits.run_after - waits.updated_at == timedelta(hours=1)


async def test_a_worker_takes_a_function_for_its_backoff(run: Run, store: PgJobStore) -> None:
    async def handler(_ctx: JobContext) -> None:
        raise ValueError

    async with run({"t": handler}, backoff=lambda attempts: 60.0 * attempts):
        job = await settled(store, await store.enqueue("t"))

    assert job.updated_at is not None
    assert job.run_after - job.updated_at == timedelta(minutes=1)


@pytest.mark.parametrize(
    ("rules", "raised", "status"),
    [
        ({"retry_on": TimeoutError}, TimeoutError("t"), JobStatus.READY),
        ({"retry_on": (OSError, KeyError)}, ConnectionResetError("t"), JobStatus.READY),
        ({"retry_on": TimeoutError}, ValueError("t"), JobStatus.FAILED),
        ({"retry_on": ()}, ValueError("t"), JobStatus.FAILED),
        ({"never_retry_on": ValueError}, UnicodeError("t"), JobStatus.FAILED),
        ({"never_retry_on": (ValueError,)}, KeyError("t"), JobStatus.READY),
        ({"retry_on": OSError, "never_retry_on": FileNotFoundError}, FileNotFoundError("t"), JobStatus.FAILED),
        ({"retry_on": OSError, "never_retry_on": FileNotFoundError}, PermissionError("t"), JobStatus.READY),
        ({"never_retry_on": ValueError}, ExceptionGroup("g", [OSError(), ValueError("t")]), JobStatus.FAILED),
        ({"retry_on": OSError}, ExceptionGroup("g", [OSError("t"), TimeoutError()]), JobStatus.READY),
        ({"retry_on": OSError}, ExceptionGroup("g", [OSError("t"), KeyError()]), JobStatus.FAILED),
        ({"retry_on": ExceptionGroup}, ExceptionGroup("g", [KeyError("t")]), JobStatus.READY),
        ({"never_retry_on": ExceptionGroup}, ExceptionGroup("g", [KeyError("t")]), JobStatus.FAILED),
        (
            {"retry_on": Exception, "never_retry_on": ValueError},
            ExceptionGroup("g", [OSError(), ExceptionGroup("t", [ValueError()])]),
            JobStatus.FAILED,
        ),
        ({"retry_on": OSError}, asyncio.CancelledError(), JobStatus.FAILED),
        ({"retry_on": OSError}, RetryAfter(60, "t"), JobStatus.READY),
        ({"retry_on": Exception}, Fail("t"), JobStatus.FAILED),
        ({"never_retry_on": Exception}, Cancel("t"), JobStatus.CANCELLED),
    ],
)
async def test_only_errors_that_are_worth_it_are_retried(
    run: Run, store: PgJobStore, log: EventLog, rules: dict[str, Any], raised: BaseException, status: JobStatus
) -> None:
    handlers = Handlers()

    @handlers.job("t", **rules)
    async def handler() -> None:
        raise raised

    async with run(handlers):
        job_id = await store.enqueue(handler.new())
        await log.wait_for(JobSettled)
        job = await store.get(job_id)

    assert (job.status, job.attempts) == (status, 1)
    assert "t" in (job.last_error or "")
    assert len(job.errors) == 1


@pytest.mark.parametrize(
    ("rules", "status"),
    [
        ({"retry_on": TimeoutError}, JobStatus.READY),
        ({"retry_on": ConnectionError}, JobStatus.FAILED),
        ({"never_retry_on": TimeoutError}, JobStatus.FAILED),
    ],
)
async def test_a_timeout_counts_as_a_timeout_error(
    run: Run, store: PgJobStore, log: EventLog, rules: dict[str, Any], status: JobStatus
) -> None:
    handlers = Handlers()

    @handlers.job("t", timeout=0.05, **rules)
    async def handler() -> None:
        await asyncio.Event().wait()

    async with run(handlers):
        job_id = await store.enqueue(handler.new())
        await log.wait_for(JobSettled)
        job = await store.get(job_id)

    assert job.status is status
    assert "timeout_seconds (0.05 s)" in (job.last_error or "")


async def test_the_rules_hold_for_jobs_of_old_names_and_a_deploy_is_no_error(
    run: Run, store: PgJobStore, log: EventLog
) -> None:
    handlers = Handlers()
    entered = asyncio.Event()

    @handlers.job("new", aliases=["old"], retry_on=())
    async def handler(fails: bool) -> None:
        entered.set()
        if fails:
            raise ValueError("no")
        await asyncio.Event().wait()

    async with run(handlers, shutdown_grace=0.0):
        failed = await ended(store, await store.enqueue("old", {"fails": True}))
        entered.clear()
        job_id = await store.enqueue("old", {"fails": False})
        await entered.wait()
    stopped = await store.get(job_id)

    assert failed.status is JobStatus.FAILED
    assert (stopped.status, stopped.attempts) == (JobStatus.READY, 0)


def columns(job: Job) -> Sequence[Any]:
    return job.queue, job.priority, job.max_attempts, job.timeout_seconds, job.tags, job.dedupe_key


async def test_what_enqueue_is_told_wins_over_the_job_and_that_over_the_declaration(store: PgJobStore) -> None:
    handlers = Handlers()

    @handlers.job("t", queue="mail", priority=7, max_attempts=2, timeout=9.0, tags=["a"])
    async def handler(n: int) -> None: ...

    declared = handler.new(1)
    changed = declared.with_options(priority=3, queue="fast", dedupe_key="k")
    ids = [
        await store.enqueue(declared),
        await store.enqueue(changed, queue="default", max_attempts=5, timeout_seconds=None, tags=()),
        # Said explicitly, a default is a wish like any other.
        await store.enqueue(declared, priority=0, max_attempts=5, queue="default"),
        await store.enqueue(changed, dedupe_key=None),
        *(verdict.id for verdict in await store.enqueue_many([declared, changed.with_options(dedupe_key="k2")])),
    ]
    async with store.transaction() as conn:
        ids.append(await store.enqueue(changed, dedupe_key=str(uuid4()), priority=-1, conn=conn))

    jobs = [await store.get(job_id) for job_id in ids]
    assert [columns(job) for job in jobs[:-1]] == [
        ("mail", 7, 2, 9.0, ["a"], None),
        ("default", 3, 5, None, [], "k"),
        ("default", 0, 5, 9.0, ["a"], None),
        ("fast", 3, 2, 9.0, ["a"], None),
        ("mail", 7, 2, 9.0, ["a"], None),
        ("fast", 3, 2, 9.0, ["a"], "k2"),
    ]
    assert columns(jobs[-1])[:2] == ("fast", -1)
    assert all(job.payload == {"n": 1} for job in jobs)
