import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import pytest

from pqlite import InvalidJob, JobStatus, NewJob, NotInTransaction, NotStarted
from pqlite.testing import jobs_of
from tests.conformance.conftest import Store
from tests.conformance.scene import Scene


async def test_every_argument_of_enqueue_is_stored_and_read_back(store: Store) -> None:
    due = datetime(2199, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

    job = await store.get(
        await store.enqueue(
            job_type="summarize",
            payload={"conversation_id": 7},
            dedupe_key="summarize:conv:7",
            run_after=due,
            priority=-3,
            max_attempts=1,
            timeout_seconds=2.5,
            queue="slow",
            tags=("a", "b"),
            metadata={"tenant": "x"},
            concurrency_key="tenant:x",
            expires_at=due + timedelta(days=1),
        )
    )

    assert (job.job_type, job.payload, job.dedupe_key) == ("summarize", {"conversation_id": 7}, "summarize:conv:7")
    assert (job.run_after, job.priority, job.max_attempts, job.timeout_seconds) == (due, -3, 1, 2.5)
    assert (job.queue, job.tags, job.metadata) == ("slow", ["a", "b"], {"tenant": "x"})
    assert (job.concurrency_key, job.expires_at, job.status) == ("tenant:x", due + timedelta(days=1), JobStatus.READY)


async def test_a_generator_of_tags_and_a_read_only_mapping_of_metadata_are_stored_whole(store: Store) -> None:
    job = await store.get(
        await store.enqueue("t", tags=(tag for tag in "ab"), metadata=MappingProxyType({"tenant": "x"}))
    )

    assert (job.tags, job.metadata) == (["a", "b"], {"tenant": "x"})


async def test_a_naive_datetime_means_local_time(store: Store) -> None:
    naive = datetime(2199, 7, 1, 12, 0, 0)

    job = await store.get(await store.enqueue("t", run_after=naive))

    assert job.run_after == naive.astimezone()


async def test_a_negative_delay_means_now(store: Store) -> None:
    job = await store.get(await store.enqueue("t", run_after=timedelta(days=-3)))

    assert abs(job.run_after - job.created_at) < timedelta(seconds=5)


async def test_a_job_of_which_only_the_type_is_given_gets_the_documented_defaults(store: Store) -> None:
    job = await store.get(await store.enqueue("t"))

    assert (job.payload, job.queue, job.priority, job.max_attempts) == ({}, "default", 0, 5)
    assert (job.dedupe_key, job.timeout_seconds, job.concurrency_key, job.expires_at) == (None, None, None, None)
    assert (job.tags, job.metadata, job.errors, job.progress, job.result) == ([], {}, [], None, None)
    assert (job.status, job.attempts, job.claims, job.crashes) == (JobStatus.READY, 0, 0, 0)


async def test_a_delay_is_counted_by_the_stores_clock(store: Store, scene: Scene) -> None:
    await scene.pass_time(timedelta(days=3))
    job = await store.get(await store.enqueue("t", run_after=timedelta(hours=1)))

    assert abs(job.run_after - job.created_at - timedelta(hours=1)) < timedelta(seconds=1)
    assert await store.pickup("me") is None
    await scene.pass_time(timedelta(hours=1, seconds=1))
    assert await store.pickup("me") is not None


async def test_changing_a_job_that_was_read_changes_nothing(store: Store) -> None:
    payload = {"list": [1]}
    job_id = await store.enqueue("t", payload, tags=["a"], metadata={"m": 1})
    payload["list"].append(2)
    read = await store.get(job_id)
    read.payload["list"].append(3)
    read.tags.append("b")
    read.metadata["n"] = 2
    read.status = JobStatus.DONE

    again = await store.get(job_id)

    assert (again.payload, again.tags, again.metadata) == ({"list": [1]}, ["a"], {"m": 1})
    assert again.status is JobStatus.READY


async def test_a_store_says_that_it_is_not_started_before_start_and_after_close(fresh_store: Store) -> None:
    for _ in range(2):
        assert not fresh_store.started
        for verb in (
            lambda: fresh_store.enqueue("t"),
            lambda: fresh_store.enqueue_many([NewJob(job_type="t")]),
            lambda: fresh_store.get(1),
            lambda: fresh_store.pickup("me"),
            lambda: fresh_store.reap_stale(),
        ):
            with pytest.raises(NotStarted, match="not started"):
                await verb()
        for _ in range(2):
            await fresh_store.start()
        assert fresh_store.started
        assert await fresh_store.enqueue("t") > 0
        for _ in range(2):
            await fresh_store.close()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"job_type": ""}, "job_type must be 1 to 200 bytes long"),
        ({"dedupe_key": "x" * 1025}, "dedupe_key must be 1 to 1024 bytes long"),
        ({"priority": 1.5}, "priority must be a whole number"),
        ({"max_attempts": 0}, "max_attempts must be a whole number from 1"),
        ({"timeout_seconds": 0}, "timeout_seconds must be a number above 0"),
        ({"run_after": "soon"}, "run_after must be a datetime or a timedelta"),
        ({"payload": {"a": [float("nan")]}}, r"payload\.a\[0\] is nan"),
        ({"payload": "x" * (1 << 20)}, "at most 1,048,576 are stored"),
        ({"metadata": [1]}, "metadata must be a JSON object"),
        ({"tags": "abc"}, "tags must be a list of strings"),
    ],
)
async def test_a_job_out_of_bounds_is_refused_in_a_sentence_and_nothing_is_written(
    store: Store, arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidJob, match=reason):
        await store.enqueue(**({"job_type": "t"} | arguments))
    with pytest.raises(InvalidJob, match=f"job 1: .*{reason}"):
        await store.enqueue_many([{"job_type": "t"}, {"job_type": "t"} | arguments])

    assert await store.pickup("me") is None


@pytest.mark.usefixtures("postgres_only")
async def test_a_listener_hears_of_committed_enqueues_of_this_store_until_it_is_removed(store: Store) -> None:
    heard: list[str] = []
    remove = store.on_enqueue(lambda: heard.append("once"))

    job_id = await store.enqueue("t")
    await store.enqueue("t", dedupe_key="k")
    await store.enqueue_many([NewJob(job_type="t")] * 3)
    await store.cancel(job_id)
    await store.retry(job_id)
    assert len(heard) == 4
    remove()
    await store.enqueue("t")

    assert len(heard) == 4


@pytest.mark.parametrize("kind", [list, iter, "asynchronous"])
async def test_a_batch_may_come_from_anything_that_can_be_iterated(store: Store, kind: Any) -> None:
    async def one_by_one() -> AsyncIterator[NewJob]:
        for n in range(3):
            yield NewJob(job_type="t", payload=n)

    jobs = one_by_one() if kind == "asynchronous" else kind([NewJob(job_type="t", payload=n) for n in range(3)])
    told: list[tuple[int, int]] = []

    verdicts = await store.enqueue_many(jobs, progress=lambda *counts: told.append(counts))

    assert [(await store.get(verdict.id)).payload for verdict in verdicts] == [0, 1, 2]
    assert told == [(3, 3)]
    assert await store.enqueue_many([]) == []


async def test_options_beside_a_whole_job_win_over_its_own(store: Store) -> None:
    job = NewJob(job_type="t", payload=1, priority=3, queue="slow")

    kept = await store.get(await store.enqueue(job, priority=7))

    assert (kept.job_type, kept.payload, kept.priority, kept.queue) == ("t", 1, 7, "slow")
    assert job.priority == 3


async def test_each_job_of_a_batch_is_taken_as_it_is_when_it_is_drawn(store: Store) -> None:
    def one_again_and_again() -> Iterator[NewJob]:
        job = NewJob(job_type="t", payload={})
        for n in range(3):
            job.payload["n"] = n
            yield job

    verdicts = await store.enqueue_many(one_again_and_again())

    assert [(await store.get(verdict.id)).payload for verdict in verdicts] == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_a_batch_is_drawn_to_its_end_before_anything_is_written(store: Store) -> None:
    async def broken() -> AsyncIterator[NewJob]:
        yield NewJob(job_type="t", dedupe_key="k")
        # Nobody waits for the key, because no transaction has been begun.
        assert await asyncio.wait_for(store.enqueue("u", dedupe_key="k"), 10) == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.enqueue_many(broken())

    assert [job.job_type for job in await jobs_of(store)] == ["u"]


@pytest.mark.parametrize("within", [True, False])
async def test_a_batch_that_is_cancelled_leaves_nothing_of_itself(store: Store, within: bool) -> None:
    jobs = [NewJob(job_type="t"), NewJob(job_type="t", dedupe_key="k")] * 2
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(store.transaction()) if within else None
        async with store.transaction() as tx:
            await store.enqueue("u", dedupe_key="k", conn=tx)
            adding = asyncio.create_task(store.enqueue_many(jobs, conn=own, progress=lambda *_: None))
            done, _ = await asyncio.wait([adding], timeout=0.1)
            assert not done
            adding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await adding

    assert [job.job_type for job in await jobs_of(store)] == ["u"]


async def test_a_store_may_be_strict_and_a_call_may_say_otherwise(make_store: Callable[..., Store]) -> None:
    async with make_store(strict=True) as store, store.connection() as conn:
        for verb in (store.enqueue("t", conn=conn), store.enqueue_many([NewJob(job_type="t")], conn=conn)):
            with pytest.raises(NotInTransaction, match="strict"):
                await verb
        job_id = await store.enqueue("t", conn=conn, strict=False)
        assert await store.cancel(job_id, conn=conn, strict=False) is JobStatus.CANCELLED
        assert await store.enqueue("t") > job_id
