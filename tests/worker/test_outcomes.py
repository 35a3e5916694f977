"""How an attempt ends, and what becomes of the job."""

import asyncio
import dataclasses
import logging
import threading
import time
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest
from pydantic import BaseModel

from pqlite import (
    BackoffPolicy,
    Cancel,
    Depends,
    Fail,
    Handlers,
    JobCancelled,
    JobContext,
    JobStatus,
    LeaseLost,
    PgJobStore,
    RetryAfter,
    Snooze,
)
from pqlite.events import JobEnded, JobSettled, JobStarted, JobStuck, OutcomeRefused
from pqlite.handlers.middleware import CallNext
from pqlite.outcome import Verb
from pqlite.worker import executor
from tests.support import EventLog, ended, settled, until
from tests.worker.conftest import Run


class Summary(BaseModel):
    tokens: int
    text: str


class Quick(BackoffPolicy):
    def retry_delay(self, attempts: int) -> float:
        return 0.01 * attempts


@pytest.mark.parametrize(
    ("returned", "stored"),
    [
        (None, None),
        ({"a": [1, 2.5, "ü", None, True]}, {"a": [1, 2.5, "ü", None, True]}),
        ([1, 2], [1, 2]),
        ("text", "text"),
        (0, 0),
        (Summary(tokens=3, text="x"), {"tokens": 3, "text": "x"}),
        ({"nan": float("nan"), "nul": "a\x00b"}, {"nan": None, "nul": "a\\x00b"}),
    ],
)
async def test_what_a_handler_returns_is_kept(run: Run, store: PgJobStore, returned: Any, stored: Any) -> None:
    async def handler(_ctx: JobContext) -> Any:
        return returned

    async with run({"t": handler}):
        job = await ended(store, await store.enqueue("t"))

    assert job.status is JobStatus.DONE
    assert job.result == stored
    assert job.locked_by is None
    assert job.duration_ms is not None
    assert job.finished_at is not None


async def test_a_result_that_cannot_be_stored_fails_the_job_and_never_reruns_it(run: Run, store: PgJobStore) -> None:
    runs = []

    async def handler(ctx: JobContext) -> object:
        runs.append(ctx.job.id)
        return {"what": object()}

    async with run({"t": handler}, backoff=Quick()):
        job = await ended(store, await store.enqueue("t"))

    assert job.status is JobStatus.FAILED
    assert "result.what" in (job.last_error or "")
    assert runs == [job.id]


async def test_an_error_is_retried_by_the_policy_until_max_attempts(run: Run, store: PgJobStore) -> None:
    class Recording(BackoffPolicy):
        def __init__(self) -> None:
            self.asked: list[int] = []

        def retry_delay(self, attempts: int) -> timedelta:
            self.asked.append(attempts)
            return timedelta(milliseconds=5)

    policy = Recording()

    async def handler(ctx: JobContext) -> None:
        raise ValueError(f"attempt {ctx.attempt}")

    async with run({"t": handler}, backoff=policy):
        job = await ended(store, await store.enqueue("t", max_attempts=3))

    assert job.status is JobStatus.FAILED
    assert job.attempts == 3
    assert policy.asked == [1, 2, 3]
    assert (job.last_error or "").endswith("ValueError: attempt 3")
    assert [error["attempt"] for error in job.errors] == [1, 2, 3]


async def test_without_a_policy_the_first_retry_waits_a_minute(run: Run, store: PgJobStore) -> None:
    async def handler(_ctx: JobContext) -> None:
        raise ValueError

    async with run({"t": handler}):
        job = await settled(store, await store.enqueue("t"))

    assert job.status is JobStatus.READY
    assert job.updated_at is not None
    assert job.run_after - job.updated_at == timedelta(minutes=1)


def fail(_ctx: JobContext) -> None:
    raise ValueError("boom")


async def fail_on_the_loop(ctx: JobContext) -> None:
    fail(ctx)


class Failing:
    def __call__(self, ctx: JobContext) -> None:
        fail(ctx)


async def passing_on(ctx: JobContext, call_next: CallNext) -> Any:
    return await call_next(ctx)


def broken_dependency() -> int:
    raise ValueError("boom")


declared = Handlers()


@declared.job("t")
def with_a_dependency(number: int = Depends(lambda: 1)) -> None:
    raise ValueError(f"boom {number}")


@declared.job("needs")
async def with_a_broken_dependency(number: int = Depends(broken_dependency)) -> None: ...


@pytest.mark.parametrize("middleware", [[], [passing_on]])
@pytest.mark.parametrize(
    ("job_type", "handler", "first"),
    [
        ("t", fail, "fail"),
        ("t", fail_on_the_loop, "fail_on_the_loop"),
        ("t", partial(fail), "fail"),
        ("t", Failing(), "__call__"),
        ("t", with_a_dependency, "with_a_dependency"),
        ("needs", with_a_broken_dependency, "broken_dependency"),
    ],
)
async def test_an_error_begins_with_the_first_frame_of_what_the_handler_is(
    run: Run, store: PgJobStore, middleware: list[Any], job_type: str, handler: Any, first: str
) -> None:
    if first == "broken_dependency" and middleware:
        first = "passing_on"  # the handler was not reached
    async with run({job_type: handler}, middleware=middleware):
        job = await ended(store, await store.enqueue(job_type, max_attempts=1))

    lines = (job.last_error or "").splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].startswith(f'  File "{__file__}"')
    assert lines[1].endswith(f", in {first}")
    assert "ValueError: boom" in lines[-1]


async def test_an_exception_with_a_traceback_method_of_its_own_is_an_error(run: Run, store: PgJobStore) -> None:
    class Odd(Exception):
        def with_traceback(self, trace: object) -> None:  # type: ignore[override]
            return None

    async def handler(_ctx: JobContext) -> None:
        raise Odd("boom")

    async with run({"t": handler}):
        job = await ended(store, await store.enqueue("t", max_attempts=1))

    assert job.status is JobStatus.FAILED
    assert "Odd: boom" in (job.last_error or "")


@pytest.mark.parametrize("nonsense", ["soon", float("nan"), None])
async def test_a_broken_backoff_policy_does_not_lose_the_failure(run: Run, store: PgJobStore, nonsense: Any) -> None:
    class Broken(BackoffPolicy):
        def retry_delay(self, attempts: int) -> Any:
            return nonsense

    async def handler(_ctx: JobContext) -> None:
        raise ValueError("the real failure")

    async with run({"t": handler}, backoff=Broken()):
        job = await settled(store, await store.enqueue("t"))

    assert "the real failure" in (job.last_error or "")
    assert job.updated_at is not None
    assert job.run_after - job.updated_at == timedelta(minutes=1)


@pytest.mark.parametrize(
    ("signal", "status", "attempts", "error"),
    [
        (Fail("not a file"), JobStatus.FAILED, 1, "not a file"),
        (Cancel("no longer wanted"), JobStatus.CANCELLED, 1, "no longer wanted"),
        (Snooze(3600, "too early"), JobStatus.READY, 0, "too early"),
        (RetryAfter(timedelta(hours=1), "rate limited"), JobStatus.READY, 1, "rate limited"),
    ],
)
@pytest.mark.parametrize("how", ["raised", "returned"])
async def test_a_handler_says_how_its_attempt_ends(
    run: Run,
    store: PgJobStore,
    log: EventLog,
    how: str,
    signal: Exception,
    status: JobStatus,
    attempts: int,
    error: str,
) -> None:
    async def handler(_ctx: JobContext) -> Exception:
        if how == "returned":
            return signal
        raise signal

    async with run({"t": handler}):
        job_id = await store.enqueue("t")
        await log.wait_for(JobSettled)
        job = await store.get(job_id)

    assert (job.status, job.attempts, job.last_error) == (status, attempts, error)
    if status is JobStatus.READY:
        assert job.updated_at is not None
        assert job.run_after - job.updated_at == timedelta(hours=1)


@pytest.mark.parametrize(
    ("raised", "status", "error"),
    [
        ([ValueError("x"), Fail("not a file")], JobStatus.FAILED, "not a file"),
        ([Snooze(3600, "early"), Cancel("gone")], JobStatus.CANCELLED, "gone"),
        ([Snooze(3600, "early"), RetryAfter(3600, "busy")], JobStatus.READY, "early"),
        ([ExceptionGroup("inner", [Cancel("gone")]), OSError()], JobStatus.CANCELLED, "gone"),
        ([Snooze(3600, "early"), ValueError("x")], JobStatus.READY, "ValueError: x"),
    ],
)
async def test_what_tasks_of_a_group_say_counts_as_if_the_handler_said_it(
    run: Run, store: PgJobStore, log: EventLog, raised: list[Exception], status: JobStatus, error: str
) -> None:
    async def handler(_ctx: JobContext) -> None:
        raise ExceptionGroup("tasks", raised)

    async with run({"t": handler}):
        job_id = await store.enqueue("t")
        await log.wait_for(JobSettled)
        job = await store.get(job_id)

    assert job.status is status
    assert error in (job.last_error or "")


async def test_a_timeout_cancels_the_handler_and_counts_as_an_error(run: Run, store: PgJobStore) -> None:
    cancelled = []

    async def handler(ctx: JobContext) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(ctx.stop_requested)
            raise

    async with run({"t": handler}):
        job = await settled(store, await store.enqueue("t", timeout_seconds=0.05))

    assert cancelled == ["timeout"]
    assert job.attempts == 1
    assert "timeout_seconds (0.05 s)" in (job.last_error or "")


@pytest.mark.parametrize(("max_attempts", "cancel", "status"), [(5, True, "CANCELLED"), (1, False, "FAILED")])
async def test_events_and_logs_say_how_a_job_ended_and_not_what_its_attempt_asked_for(
    run: Run,
    store: PgJobStore,
    log: EventLog,
    conn: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
    max_attempts: int,
    cancel: bool,
    status: str,
) -> None:
    async def handler(ctx: JobContext) -> None:
        if cancel:
            # As `cancel` does, but unheard: the handler raises before the request arrives.
            await conn.execute("update pqlite.jobs set cancel_requested_at = now() where id = $1", ctx.job.id)
        raise ValueError("oops")

    async with run({"t": handler}):
        await store.enqueue("t", max_attempts=max_attempts)
        ended = await log.wait_for(JobEnded)
        event = await log.wait_for(JobSettled)

    assert (event.outcome.verb, event.status) == (Verb.RETRY, status)
    assert ended.outcome.expected == ("READY" if cancel else "FAILED")
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line.partition(":")[0] for line in said] == ([] if cancel else ["Job 1 (t) failed its last attempt"])


async def test_cancelling_a_running_job_stops_its_handler(run: Run, store: PgJobStore, log: EventLog) -> None:
    async def handler(_ctx: JobContext) -> None:
        await asyncio.sleep(60)

    async with run({"t": handler}):
        job_id = await store.enqueue("t")
        await log.wait_for(JobStarted)
        assert await store.cancel(job_id) is JobStatus.RUNNING
        job = await ended(store, job_id)

    assert job.status is JobStatus.CANCELLED


async def test_a_job_that_is_done_before_the_cancellation_arrives_stays_done(run: Run, store: PgJobStore) -> None:
    def handler(ctx: JobContext) -> str:
        # In a thread, which no cancellation reaches.
        asyncio.run_coroutine_threadsafe(ctx.store.cancel(ctx.job.id), loop).result(10)
        return "done"

    loop = asyncio.get_running_loop()

    async with run({"t": handler}):
        job = await ended(store, await store.enqueue("t"))

    assert (job.status, job.result) == (JobStatus.DONE, "done")


async def test_a_plain_function_runs_in_a_thread_and_leaves_the_loop_alone(run: Run, store: PgJobStore) -> None:
    barrier = threading.Barrier(2, timeout=10)

    def handler(_ctx: JobContext) -> str:
        barrier.wait()  # two at once, or never
        return threading.current_thread().name

    async with run({"t": handler}, concurrency=2):
        ids = [await store.enqueue("t") for _ in range(2)]
        jobs = [await ended(store, job_id) for job_id in ids]

    assert all(job.status is JobStatus.DONE for job in jobs)
    assert all(job.result != threading.current_thread().name for job in jobs)


async def test_a_thread_that_cannot_be_stopped_keeps_its_slot_until_it_ends(
    run: Run, store: PgJobStore, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "STUCK_AFTER", 0.05)
    let_go = threading.Event()

    def handler(_ctx: JobContext) -> str:
        let_go.wait(20)
        return "late"

    async with run({"t": handler}, concurrency=1):
        job_id = await store.enqueue("t", timeout_seconds=0.05)
        stuck = await log.wait_for(JobStuck)
        running = await store.get(job_id)
        let_go.set()
        job = await settled(store, job_id)

    assert stuck.job.id == job_id
    assert running.status is JobStatus.RUNNING
    assert (job.status, job.result, job.attempts) == (JobStatus.READY, None, 1)
    assert "TimeoutError" in (job.last_error or "")


async def test_an_attempt_that_something_else_cancels_is_an_attempt_that_failed(run: Run, store: PgJobStore) -> None:
    async def handler(ctx: JobContext) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(3600)

    async with run({"t": handler}):
        job = await ended(store, await store.enqueue("t", max_attempts=1))

    assert (job.status, job.claims) == (JobStatus.FAILED, 1)
    assert job.last_error == "CancelledError: not requested by the worker"


@pytest.mark.parametrize("fatal", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()])
@pytest.mark.parametrize("kind", ["coroutine", "function"])
async def test_nothing_a_handler_raises_stops_the_app(
    run: Run, store: PgJobStore, fatal: BaseException, kind: str
) -> None:
    async def coroutine(_ctx: JobContext) -> None:
        raise fatal

    def function(_ctx: JobContext) -> None:
        raise fatal

    async with run({"t": coroutine if kind == "coroutine" else function, "next": lambda _ctx: "alive"}):
        job = await settled(store, await store.enqueue("t"))
        after = await ended(store, await store.enqueue("next"))

    assert job.status is JobStatus.READY
    assert type(fatal).__name__ in (job.last_error or "")
    assert after.result == "alive"


async def test_what_a_handler_sets_in_its_context_is_not_seen_by_the_jobs_after_it(
    run: Run, store: PgJobStore, log: EventLog
) -> None:
    tenant: ContextVar[int] = ContextVar("tenant")
    seen: list[int | None] = []

    async def handler(ctx: JobContext) -> None:
        seen.append(tenant.get(None))
        tenant.set(ctx.job.id)

    await store.enqueue_many({"job_type": "t"} for _ in range(100))
    async with run({"t": handler}, concurrency=1):
        await log.wait_for(JobEnded, count=100)

    assert set(seen) == {None}


async def test_an_error_that_cannot_be_printed_or_stored_is_stored_all_the_same(run: Run, store: PgJobStore) -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    async def unprintable(_ctx: JobContext) -> None:
        raise Unprintable

    async def unstorable(_ctx: JobContext) -> None:
        raise ValueError("nul \x00 and surrogate \ud800" + "x" * 100_000 + "the end")

    async with run({"unprintable": unprintable, "unstorable": unstorable}):
        first = await settled(store, await store.enqueue("unprintable"))
        second = await settled(store, await store.enqueue("unstorable"))

    assert "Unprintable" in (first.last_error or "")
    assert (second.last_error or "").endswith("the end")
    assert len(second.last_error or "") <= 8000


async def test_a_payload_python_cannot_read_fails_only_its_own_job(run: Run, store: PgJobStore) -> None:
    async with run({"t": lambda ctx: ctx.job.payload}, concurrency=2):
        async with store.connection() as conn:
            unreadable = await conn.fetchval(
                "insert into pqlite.jobs (job_type, payload) "
                "values ('t', ('{\"n\": ' || repeat('9', 5000) || '}')::jsonb) returning id"
            )
        fine = await ended(store, await store.enqueue("t", {"n": 1}))
        bad = await until(lambda: _status(store, unreadable, "FAILED"))

    assert fine.result == {"n": 1}
    assert "payload" in bad


async def _status(store: PgJobStore, job_id: int, status: str) -> str | None:
    async with store.connection() as conn:
        sql = "select last_error from pqlite.jobs where id = $1 and status = $2"
        return await conn.fetchval(sql, job_id, status)  # type: ignore[no-any-return]


async def test_a_completed_job_stays_done_whatever_its_handler_does_next(run: Run, store: PgJobStore) -> None:
    async with store.connection() as conn:
        await conn.execute("create table ledger (job_id bigint)")

    async def handler(ctx: JobContext) -> None:
        async with ctx.complete(result={"written": 1}) as conn:
            await conn.execute("insert into ledger values ($1)", ctx.job.id)
        raise ValueError("too late to matter")

    async with run({"t": handler}):
        job = await ended(store, await store.enqueue("t"))
        async with store.connection() as conn:
            rows = await conn.fetch("select job_id from ledger")

    assert (job.status, job.result, job.attempts) == (JobStatus.DONE, {"written": 1}, 1)
    assert [row[0] for row in rows] == [job.id]


async def test_a_handler_that_raises_within_its_completion_leaves_nothing_written(run: Run, store: PgJobStore) -> None:
    async with store.connection() as conn:
        await conn.execute("create table ledger (job_id bigint)")

    async def handler(ctx: JobContext) -> None:
        async with ctx.complete() as conn:
            await conn.execute("insert into ledger values ($1)", ctx.job.id)
            raise ValueError("rolled back")

    async with run({"t": handler}):
        job = await settled(store, await store.enqueue("t"))
        async with store.connection() as conn:
            rows = await conn.fetch("select job_id from ledger")

    assert job.status is JobStatus.READY
    assert rows == []


async def test_completing_a_job_that_was_asked_to_cancel_rolls_back(run: Run, store: PgJobStore) -> None:
    raised: list[type[BaseException]] = []

    async def handler(ctx: JobContext) -> None:
        async with ctx.store.connection() as conn:  # type: ignore[attr-defined]
            await conn.execute("update pqlite.jobs set cancel_requested_at = now() where id = $1", ctx.job.id)
        try:
            async with ctx.complete():
                pass
        except JobCancelled as error:
            raised.append(type(error))
            raise

    async with run({"t": handler}):
        job = await ended(store, await store.enqueue("t"))

    assert raised == [JobCancelled]
    assert job.status is JobStatus.CANCELLED


async def test_an_outcome_for_a_job_that_was_taken_over_is_refused(run: Run, store: PgJobStore, log: EventLog) -> None:
    started = asyncio.Event()
    proceed = asyncio.Event()
    lost: list[BaseException] = []

    async def handler(ctx: JobContext) -> str:
        started.set()
        await proceed.wait()
        try:
            async with ctx.complete():
                pass
        except LeaseLost as error:
            lost.append(error)
        return "stale"

    async with run({"t": handler}):
        job_id = await store.enqueue("t")
        await started.wait()
        async with store.connection() as conn:
            sql = "update pqlite.jobs set claims = claims + 1, locked_by = 'somebody else' where id = $1"
            await conn.execute(sql, job_id)
        proceed.set()
        refused = await log.wait_for(OutcomeRefused)
        job = await store.get(job_id)

    assert len(lost) == 1
    assert refused.outcome.job.id == job_id
    assert (job.status, job.locked_by, job.result) == (JobStatus.RUNNING, "somebody else", None)


async def test_a_type_without_a_handler_is_left_for_a_worker_that_has_one(run: Run, store: PgJobStore) -> None:
    async with run({"known": lambda _ctx: None}):
        unknown = await store.enqueue("unknown")
        await ended(store, await store.enqueue("known"))
        job = await store.get(unknown)

    assert (job.status, job.attempts) == (JobStatus.READY, 0)


async def test_unknown_types_fail_where_that_is_asked_for(run: Run, store: PgJobStore) -> None:
    async with run({"known": lambda _ctx: None}, unknown_job_types="fail"):
        job = await ended(store, await store.enqueue("unknown"))

    assert job.status is JobStatus.FAILED
    assert "'unknown'" in (job.last_error or "")


async def test_the_job_a_handler_sees_is_the_job_that_was_enqueued(run: Run, store: PgJobStore) -> None:
    seen: list[Any] = []

    async def handler(ctx: JobContext) -> None:
        seen.append((dataclasses.asdict(ctx.job), ctx.worker_id, ctx.fence_token, time.monotonic()))

    async with run({"t": handler}, worker_id="label"):
        job = await ended(
            store,
            await store.enqueue(
                "t", {"a": 1}, priority=3, queue="q", tags=["x", "y"], metadata={"m": 1}, concurrency_key="c"
            ),
        )

    claimed, worker_id, token, _ = seen[0]
    assert worker_id == "label"
    assert token == f"{job.id}:1"
    assert claimed["locked_by"].startswith("label-")
    for field in (
        "id",
        "payload",
        "priority",
        "queue",
        "tags",
        "metadata",
        "concurrency_key",
        "created_at",
        "run_after",
    ):
        assert claimed[field] == getattr(job, field)


async def test_an_exception_is_a_reason_too(run: Run, store: PgJobStore) -> None:
    async def handler(_ctx: JobContext) -> None:
        raise Fail(ValueError("not a file"))

    async with run({"t": handler}):
        job = await ended(store, await store.enqueue("t"))

    assert (job.status, job.last_error) == (JobStatus.FAILED, "not a file")


async def test_a_second_run_does_not_keep_the_first_ones_result(run: Run, store: PgJobStore) -> None:
    async with run({"t": lambda ctx: "first" if ctx.job.claims == 1 else None}):
        job_id = await store.enqueue("t")
        first = await ended(store, job_id)
        await store.retry(job_id)
        await until(lambda: _attempted(store, job_id, 2))
        second = await store.get(job_id)

    assert (first.result, second.result) == ("first", None)


async def _attempted(store: PgJobStore, job_id: int, claims: int) -> bool:
    job = await store.get(job_id)
    return job.status is JobStatus.DONE and job.claims == claims


async def test_a_job_retried_while_its_completed_handler_goes_on_runs_again(run: Run, store: PgJobStore) -> None:
    runs = 0
    completed, go_on = asyncio.Event(), asyncio.Event()

    async def handler(ctx: JobContext) -> None:
        nonlocal runs
        runs += 1
        async with ctx.complete(result=runs):
            pass
        completed.set()
        await go_on.wait()

    async with run({"t": handler}):
        job_id = await store.enqueue("t")
        await completed.wait()
        await store.retry(job_id)
        await until(lambda: _claimed_again(store, job_id))
        go_on.set()
        await until(lambda: _attempted(store, job_id, 3), "the released claim to run")
        job = await store.get(job_id)

    assert (runs, job.result) == (2, 2)


async def _claimed_again(store: PgJobStore, job_id: int) -> bool:
    return (await store.get(job_id)).claims == 2
