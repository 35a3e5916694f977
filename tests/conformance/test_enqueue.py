from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from pqlite import JobStatus
from tests.conformance.conftest import Store


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
