"""One job at a time, for programs without a worker: pickup, mark_done, mark_error."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from pqlite import InvalidJob, JobStatus, LeaseLost, NewJob, PayloadError
from pqlite.job import Job
from tests.conformance.conftest import Store
from tests.conformance.scene import Scene


async def pick_up(store: Store, **narrower: Any) -> Job:
    job = await store.pickup("me", **narrower)
    assert job is not None
    return job


class Report(BaseModel):
    rows: int


async def test_pickup_returns_the_best_due_job_of_any_type_and_queue_and_then_none(store: Store) -> None:
    await store.enqueue("later", priority=9, run_after=timedelta(hours=1))
    await store.enqueue("first", queue="a")
    await store.enqueue("urgent", priority=5, queue="b")
    await store.enqueue("second", queue="c")

    assert [(await pick_up(store)).job_type for _ in range(3)] == ["urgent", "first", "second"]
    assert await store.pickup("me") is None


async def test_pickup_can_be_narrowed_to_queues_and_types(store: Store) -> None:
    await store.enqueue("a", queue="q")
    await store.enqueue("b", queue="r")

    assert await store.pickup("me", queues=["q"], job_types=["b"]) is None
    assert (await pick_up(store, queues=["r"])).job_type == "b"
    assert (await pick_up(store, job_types=["a"])).job_type == "a"


async def test_a_worker_id_that_cannot_be_stored_is_refused(store: Store) -> None:
    with pytest.raises(InvalidJob, match="worker_id must be 1 to 200 bytes long"):
        await store.pickup("")


async def test_concurrent_pickups_share_no_job(store: Store) -> None:
    await store.enqueue_many([NewJob(job_type="t")] * 100)

    async def drain() -> list[int]:
        mine = []
        while (job := await store.pickup("me")) is not None:
            mine.append(job.id)
        return mine

    async with asyncio.TaskGroup() as tasks:
        drains = [tasks.create_task(drain()) for _ in range(8)]

    ids = [job_id for drain in drains for job_id in drain.result()]
    assert len(ids) == len(set(ids)) == 100


@pytest.mark.parametrize("by_id", [True, False])
async def test_a_job_marked_done_keeps_its_result_and_duration(store: Store, by_id: bool) -> None:
    await store.enqueue("t")
    job = await pick_up(store)

    for _ in range(2):  # repeating it is harmless
        await store.mark_done(job.id if by_id else job, result=Report(rows=3), duration_ms=12)

    done = await store.get(job.id)
    assert (done.status, done.result, done.duration_ms) == (JobStatus.DONE, {"rows": 3}, 12)


@pytest.mark.parametrize("result", ["text", 7, [1], {"a": None}, False])
async def test_a_result_may_be_any_json_value(store: Store, result: Any) -> None:
    await store.enqueue("t")
    job = await pick_up(store)

    await store.mark_done(job, result=result)

    assert (await store.get(job.id)).result == result


async def test_a_result_with_a_nul_or_nan_is_cleaned_and_never_lost(store: Store) -> None:
    await store.enqueue("t")
    job = await pick_up(store)

    await store.mark_done(job, result={"a\x00": ["b\x00", float("nan")]})

    assert (await store.get(job.id)).result == {"a\\x00": ["b\\x00", None]}


async def test_a_result_that_cannot_be_stored_is_refused_and_the_job_still_runs(store: Store) -> None:
    await store.enqueue("t")
    job = await pick_up(store)

    with pytest.raises(PayloadError, match="result cannot be stored as JSON: its type is object"):
        await store.mark_done(job, result=object())

    assert (await store.get(job.id)).status is JobStatus.RUNNING
    await store.mark_done(job)


async def test_an_error_makes_the_job_ready_again_after_a_minute_or_as_long_as_given(store: Store) -> None:
    for retry_after in (None, timedelta(hours=2), timedelta(seconds=-1)):
        await store.enqueue("t")
        job = await pick_up(store)

        await store.mark_error(job.id, "boom", retry_after=retry_after, duration_ms=5)

        after = await store.get(job.id)
        assert (after.status, after.last_error, after.attempts, after.duration_ms) == (JobStatus.READY, "boom", 1, 5)
        assert after.updated_at is not None
        expected = timedelta(minutes=1) if retry_after is None else max(retry_after, timedelta(0))
        assert after.run_after - after.updated_at == expected
        await store.cancel(job.id)


async def test_a_delay_beyond_all_bounds_is_a_year(store: Store) -> None:
    await store.enqueue("t")
    job = await pick_up(store)

    await store.mark_error(job, "boom", retry_after=timedelta.max)

    after = await store.get(job.id)
    assert after.updated_at is not None
    assert after.run_after - after.updated_at == timedelta(days=365)


@pytest.mark.parametrize(("terminal", "max_attempts"), [(True, 5), (False, 1)])
async def test_a_terminal_error_or_the_last_one_makes_the_job_failed(
    store: Store, terminal: bool, max_attempts: int
) -> None:
    await store.enqueue("t", max_attempts=max_attempts)
    job = await pick_up(store)

    await store.mark_error(job, "boom", terminal=terminal, result={"partial": 1})

    after = await store.get(job.id)
    assert (after.status, after.last_error, after.result) == (JobStatus.FAILED, "boom", {"partial": 1})


async def test_an_error_text_with_a_nul_or_a_surrogate_is_cleaned_and_never_lost(store: Store) -> None:
    await store.enqueue("t")
    job = await pick_up(store)

    await store.mark_error(job, "a\x00b\ud800")

    assert (await store.get(job.id)).last_error == "a\\x00b\\ud800"


async def test_a_job_that_was_given_back_meanwhile_cannot_be_marked_and_stays_as_it_is(
    store: Store, scene: Scene
) -> None:
    await store.enqueue("t")
    job = await pick_up(store)
    await scene.pass_time(timedelta(hours=1))
    assert await store.reap_stale() == 1
    before = await store.get(job.id)

    for verb in (store.mark_done(job), store.mark_error(job, "boom", terminal=True), store.mark_done(job.id)):
        with pytest.raises(LeaseLost):
            await verb

    assert await store.get(job.id) == before


@pytest.mark.parametrize(("given", "kept"), [(1.9, 1), (-3, 0), (10**30, 2**31 - 1), (float("inf"), 2**31 - 1)])
async def test_how_long_an_attempt_took_is_kept_in_whole_milliseconds(store: Store, given: float, kept: int) -> None:
    await store.enqueue("t")
    job = await pick_up(store)

    await store.mark_done(job, duration_ms=given)

    assert (await store.get(job.id)).duration_ms == kept


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"error": ValueError("no text")}, r"error must be text, not ValueError"),
    ({"retry_after": "soon"}, "retry_after must be a timedelta, not 'soon'"),
    ({"duration_ms": "12"}, "duration_ms must be a number of milliseconds, not '12'"),
    ({"duration_ms": float("nan")}, "duration_ms must be a number of milliseconds, not nan"),
    ({"job": "1"}, "expected a claimed job or its id, not '1'"),
    ({"job": None}, "expected a claimed job or its id, not None"),
    ({"job": True}, "expected a claimed job or its id, not True"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
async def test_a_wrong_argument_is_refused_by_name_and_the_claim_is_kept(
    store: Store, wrong: dict[str, Any], message: str
) -> None:
    await store.enqueue("t")
    job = await pick_up(store)

    with pytest.raises(InvalidJob, match=message):
        await store.mark_error(**({"job": job, "error": "e"} | wrong))

    await store.mark_done(job)
    assert (await store.get(job.id)).status is JobStatus.DONE


async def test_a_lost_claim_is_said_even_if_the_result_cannot_be_stored_either(store: Store) -> None:
    job_id = await store.enqueue("t")

    with pytest.raises(LeaseLost):
        await store.mark_done(job_id, result=object())


@pytest.mark.parametrize("narrower", [{"queues": 5}, {"job_types": "a"}])
async def test_what_is_no_list_of_names_narrows_nothing(store: Store, narrower: dict[str, Any]) -> None:
    with pytest.raises(InvalidJob, match="must be a list of names"):
        await store.pickup("me", **narrower)


async def test_jobs_are_not_given_back_by_an_age_that_is_none(store: Store) -> None:
    with pytest.raises(InvalidJob, match="default_stale_after must be a timedelta, not 60"):
        await store.reap_stale(default_stale_after=60)  # type: ignore[arg-type]
