import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest

from pqlite import CallNext, JobContext, JobStatus
from pqlite.events import JobSettled
from pqlite.testing import AttemptFailed, EventLog, inline
from tests.conformance.conftest import Store
from tests.conformance.scene import RolledBack


class Mailbox:
    def __init__(self) -> None:
        self.mails: list[object] = []

    async def mail(self, ctx: JobContext) -> None:
        self.mails.append(ctx.job.payload)


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


async def test_enqueue_returns_when_the_job_has_run(store: Store, mailbox: Mailbox) -> None:
    async with inline(store, {"mail": mailbox.mail}):
        job_id = await store.enqueue("mail", 1)
        assert mailbox.mails == [1]
        assert (await store.get(job_id)).status is JobStatus.DONE
        await store.enqueue_many([{"job_type": "mail", "payload": n} for n in (2, 3)])
        assert mailbox.mails == [1, 2, 3]
        await store.enqueue("mail", 4, run_after=timedelta(hours=1))
        assert mailbox.mails == [1, 2, 3]


async def test_a_job_has_around_it_what_a_worker_would_have(store: Store) -> None:
    heard = EventLog()
    seen: list[object] = []

    async def handler(ctx: JobContext) -> object:
        return ctx.resources["pool"]

    async def around(ctx: JobContext, call_next: CallNext) -> object:
        seen.append(await call_next(ctx))
        return seen[-1]

    given = {"queues": ["mail"], "resources": {"pool": 7}, "middleware": [around], "observers": [heard]}
    async with inline(store, {"t": handler}, **given):  # type: ignore[arg-type]
        job_id = await store.enqueue("t", queue="mail")
        other = await store.enqueue("t")

    assert (await store.get(job_id)).result == 7
    assert (await store.get(other)).status is JobStatus.READY
    assert seen == [7]
    assert [event.outcome.job.id for event in heard.of(JobSettled)] == [job_id]


async def test_after_the_block_jobs_wait_again(store: Store, mailbox: Mailbox) -> None:
    async with inline(store, {"mail": mailbox.mail}):
        pass

    job_id = await store.enqueue("mail", 1)

    assert mailbox.mails == []
    assert (await store.get(job_id)).status is JobStatus.READY


async def test_what_a_transaction_enqueues_runs_after_its_commit_and_never_if_it_is_rolled_back(
    store: Store, mailbox: Mailbox
) -> None:
    async with inline(store, {"mail": mailbox.mail}) as run:
        async with store.transaction() as tx:
            await store.enqueue("mail", 1, conn=tx)
            assert mailbox.mails == []
        with suppress(RolledBack):
            async with store.transaction() as tx:
                await store.enqueue("mail", "never", conn=tx)
                raise RolledBack
        assert [job.status for job in await run()] == [JobStatus.DONE]
        assert mailbox.mails == [1]
        async with store.transaction() as tx:
            await store.enqueue("mail", 2, conn=tx)

    assert mailbox.mails == [1, 2]


async def test_what_a_handler_enqueues_runs_after_it_and_before_enqueue_returns(store: Store) -> None:
    told: list[str] = []

    async def first(ctx: JobContext) -> None:
        await ctx.store.enqueue("second")
        told.append("first")

    async def second(ctx: JobContext) -> None:
        told.append("second")

    async with inline(store, {"first": first, "second": second}):
        await store.enqueue("first")

    assert told == ["first", "second"]


async def test_requests_at_once_each_find_their_job_done(store: Store, mailbox: Mailbox) -> None:
    async def request(n: int) -> JobStatus:
        return (await store.get(await store.enqueue("mail", n))).status

    async with inline(store, {"mail": mailbox.mail}):
        statuses = await asyncio.gather(*(request(n) for n in range(10)))

    assert set(statuses) == {JobStatus.DONE}
    assert sorted(mailbox.mails, key=str) == list(range(10))


async def test_an_attempt_that_fails_is_raised_where_its_job_was_enqueued(store: Store) -> None:
    async def failing(ctx: JobContext) -> None:
        raise ZeroDivisionError

    async with inline(store, {"t": failing}):
        with pytest.raises(AttemptFailed, match="ZeroDivisionError"):
            await store.enqueue("t")
    async with inline(store, {"t": failing}, raises=False):
        job_id = await store.enqueue("t")

    assert (await store.get(job_id)).status is JobStatus.READY


async def test_a_block_within_a_block_leaves_the_outer_one_as_it_was(store: Store, mailbox: Mailbox) -> None:
    inner = Mailbox()
    async with inline(store, {"mail": mailbox.mail}):
        async with inline(store, {"sms": inner.mail}):
            await store.enqueue("sms", 1)
            await store.enqueue("mail", 2)
        await store.enqueue("mail", 3)
    waiting = await store.enqueue("mail", 4)

    assert inner.mails == [1]
    assert mailbox.mails == [2, 3]
    assert (await store.get(waiting)).status is JobStatus.READY


async def test_what_a_task_enqueues_that_outlives_its_handler_runs_at_once_as_well(
    store: Store, mailbox: Mailbox
) -> None:
    go_on = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def first(ctx: JobContext) -> None:
        async def later() -> None:
            await go_on.wait()
            await ctx.store.enqueue("mail", 1)

        tasks.append(asyncio.create_task(later()))

    async with inline(store, {"first": first, "mail": mailbox.mail}):
        await store.enqueue("first")
        go_on.set()
        await tasks[0]
        assert mailbox.mails == [1]
