"""What each outcome makes of a job, and what is said of outcomes that were not written."""

import json
from typing import Any

import pytest

from pqlite.outcome import Verb
from tests.conformance.conftest import Store
from tests.store.workers import RegisteredWorker

VERBS = list(Verb)


async def test_snoozing_and_releasing_never_use_up_attempts_but_always_raise_the_fence(
    store: Store, worker: RegisteredWorker
) -> None:
    await store.enqueue("t", max_attempts=1)
    for claims in range(1, 6):
        job = await worker.claim_one()
        assert (job.attempts, job.claims) == (1, claims)
        await worker.settle(job, Verb.SNOOZED if claims % 2 else Verb.RELEASED)


async def test_done_keeps_the_result_and_forgets_the_last_error_but_not_the_history(
    store: Store, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    await worker.settle(await worker.claim_one(), Verb.RETRY, error="boom")
    job = await worker.claim_one()

    await worker.settle(job, Verb.DONE, result='{"rows": 3}')

    done = await store.get(job.id)
    assert (done.result, done.last_error) == ({"rows": 3}, None)
    assert [(error["attempt"], error["error"]) for error in done.errors] == [(1, "boom")]
    assert done.finished_at is not None


async def test_the_history_of_errors_keeps_the_latest_twenty_and_the_end_of_each(
    store: Store, worker: RegisteredWorker
) -> None:
    await store.enqueue("t", max_attempts=100)
    for attempt in range(1, 26):
        await worker.settle(await worker.claim_one(), Verb.RETRY, error="x" * 3000 + f" the end of {attempt}")

    [job] = await worker.claim()
    job = await store.get(job.id)

    assert [error["attempt"] for error in job.errors] == list(range(6, 26))
    assert all(len(error["error"]) == 2000 for error in job.errors)
    assert job.errors[-1]["error"].endswith("the end of 25")
    assert job.last_error is not None
    assert job.last_error.endswith("the end of 25")
    assert set(job.errors[0]) == {"attempt", "at", "error"}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("max_attempts", [1, 5])
async def test_a_job_asked_to_cancel_is_cancelled_unless_it_is_done_first(
    store: Store, worker: RegisteredWorker, verb: Verb, max_attempts: int
) -> None:
    await store.enqueue("t", max_attempts=max_attempts)
    job = await worker.claim_one()
    await store.cancel(job.id)

    assert await worker.settle(job, verb, error=None if verb is Verb.DONE else "why", delay=60.0) is None

    after = await store.get(job.id)
    assert after.status == ("DONE" if verb is Verb.DONE else "CANCELLED")
    assert after.last_error == (None if verb is Verb.DONE else "why")
    assert after.finished_at is not None


@pytest.mark.parametrize("fields", [{"result": "null"}, {"result": '"x"'}, {"result": "[1]"}])
async def test_a_result_of_any_json_type_is_kept_whatever_the_outcome(
    store: Store, worker: RegisteredWorker, fields: dict[str, Any]
) -> None:
    await store.enqueue("t")
    job = await worker.claim_one()

    await worker.settle(job, Verb.FAILED, **fields)

    assert (await store.get(job.id)).result == json.loads(fields["result"])
