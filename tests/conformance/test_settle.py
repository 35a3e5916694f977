"""What each outcome makes of a job, and what is said of outcomes that were not written."""

import json
from datetime import timedelta
from typing import Any

import pytest

from pqlite import JobNotFound, JobStatus, NewJob
from pqlite.outcome import Outcome, Verb, Verdict
from tests.conformance.conftest import Register, Store
from tests.conformance.scene import Holder, locked
from tests.store.workers import RegisteredWorker

VERBS = list(Verb)


@pytest.mark.parametrize("cancel", [False, True])
@pytest.mark.parametrize("max_attempts", [1, 5])
@pytest.mark.parametrize("verb", VERBS)
async def test_settling_tells_the_status_of_every_job_that_is_not_done(
    store: Store, worker: RegisteredWorker, verb: Verb, max_attempts: int, cancel: bool
) -> None:
    await store.enqueue_many([NewJob(job_type="t", max_attempts=max_attempts), NewJob(job_type="t")])
    job, other = sorted(await worker.claim(), key=lambda claimed: claimed.id)
    if cancel:
        await store.cancel(job.id)
    batch = [Outcome(other, Verb.DONE), Outcome(job, verb, error="why")]

    answers = await worker.engine.settle(worker.id, batch)
    again = await worker.engine.settle(worker.id, batch)

    status = (await store.get(job.id)).status
    assert status == (batch[1].expected if verb is Verb.DONE or not cancel else JobStatus.CANCELLED)
    assert answers == ([] if verb is Verb.DONE else [(job.id, job.claims, Verdict.WRITTEN, status)])
    assert sorted(again) == [(job.id, 1, Verdict.ALREADY, status), (other.id, 1, Verdict.ALREADY, JobStatus.DONE)]


async def test_snoozing_and_releasing_never_use_up_attempts_but_always_raise_the_fence(
    store: Store, holder: Holder
) -> None:
    await store.enqueue("t", max_attempts=1)
    for claims in range(1, 6):
        job = await holder.claim_one()
        assert (job.attempts, job.claims) == (1, claims)
        await holder.settle(job, Verb.SNOOZED if claims % 2 else Verb.RELEASED)


async def test_done_keeps_the_result_and_forgets_the_last_error_but_not_the_history(
    store: Store, holder: Holder
) -> None:
    await store.enqueue("t")
    await holder.settle(await holder.claim_one(), Verb.RETRY, error="boom")
    job = await holder.claim_one()

    await holder.settle(job, Verb.DONE, result='{"rows": 3}')

    done = await store.get(job.id)
    assert (done.result, done.last_error) == ({"rows": 3}, None)
    assert [(error["attempt"], error["error"]) for error in done.errors] == [(1, "boom")]
    assert done.finished_at is not None


async def test_the_history_of_errors_keeps_the_latest_twenty_and_the_end_of_each(store: Store, holder: Holder) -> None:
    await store.enqueue("t", max_attempts=100)
    for attempt in range(1, 26):
        await holder.settle(await holder.claim_one(), Verb.RETRY, error="x" * 3000 + f" the end of {attempt}")

    [job] = await holder.claim()
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
    store: Store, holder: Holder, verb: Verb, max_attempts: int
) -> None:
    await store.enqueue("t", max_attempts=max_attempts)
    job = await holder.claim_one()
    await store.cancel(job.id)

    assert await holder.settle(job, verb, error=None if verb is Verb.DONE else "why", delay=60.0) is None

    after = await store.get(job.id)
    assert after.status == ("DONE" if verb is Verb.DONE else "CANCELLED")
    assert after.last_error == (None if verb is Verb.DONE else "why")
    assert after.finished_at is not None


@pytest.mark.parametrize("fields", [{"result": "null"}, {"result": '"x"'}, {"result": "[1]"}])
async def test_a_result_of_any_json_type_is_kept_whatever_the_outcome(
    store: Store, holder: Holder, fields: dict[str, Any]
) -> None:
    await store.enqueue("t")
    job = await holder.claim_one()

    await holder.settle(job, Verb.FAILED, **fields)

    assert (await store.get(job.id)).result == json.loads(fields["result"])


@pytest.mark.parametrize(
    ("verb", "status", "attempts"),
    [
        (Verb.DONE, "DONE", 1),
        (Verb.RETRY, "READY", 1),
        (Verb.FAILED, "FAILED", 1),
        (Verb.CANCELLED, "CANCELLED", 1),
        (Verb.SNOOZED, "READY", 0),
        (Verb.RELEASED, "READY", 0),
    ],
)
async def test_each_outcome_leaves_its_status_and_its_count_of_attempts(
    store: Store, holder: Holder, verb: Verb, status: str, attempts: int
) -> None:
    before = await store.get(await store.enqueue("t"))
    job = await holder.claim_one()

    assert await holder.settle(job, verb, delay=90.0, duration_ms=12) is None

    after = await store.get(job.id)
    assert (after.status, after.attempts, after.claims, after.crashes) == (status, attempts, 1, 0)
    assert (after.locked_by, after.locked_at, after.duration_ms) == (None, None, 12)
    assert (after.finished_at is None) is (status == "READY")
    assert after.updated_at is not None
    waits = verb in (Verb.RETRY, Verb.SNOOZED)
    assert after.run_after == (after.updated_at + timedelta(seconds=90) if waits else before.run_after)


async def test_the_last_attempt_of_a_job_that_is_to_be_retried_makes_it_failed(store: Store, holder: Holder) -> None:
    await store.enqueue("t", max_attempts=2)
    for attempt, status in ((1, "READY"), (2, "FAILED")):
        job = await holder.claim_one()
        assert await holder.settle(job, Verb.RETRY, error=f"error {attempt}") is None
        after = await store.get(job.id)
        assert (after.status, after.attempts, after.claims) == (status, attempt, attempt)
        assert (after.last_error, after.finished_at is None) == (f"error {attempt}", status == "READY")


@pytest.mark.parametrize("verb", VERBS)
async def test_an_outcome_told_twice_was_written_already_and_changes_nothing(
    store: Store, worker: RegisteredWorker, verb: Verb
) -> None:
    await store.enqueue("t")
    job = await worker.claim_one()
    await worker.settle(job, verb, error="first", delay=60.0)
    before = await store.get(job.id)

    assert await worker.settle(job, verb, error="second", delay=60.0) is Verdict.ALREADY

    assert await store.get(job.id) == before


@pytest.mark.parametrize("verb", VERBS)
async def test_an_outcome_told_again_after_the_job_was_claimed_anew_is_fenced(
    store: Store, holder: Holder, verb: Verb
) -> None:
    await store.enqueue("t")
    stale = await holder.claim_one()
    await holder.settle(stale, Verb.RELEASED)
    await holder.claim_one()
    before = await store.get(stale.id)

    assert await holder.settle(stale, verb) is Verdict.FENCED

    assert await store.get(stale.id) == before


async def test_only_jobs_that_a_transaction_has_locked_are_busy_and_can_be_offered_again(
    store: Store, worker: RegisteredWorker
) -> None:
    await store.enqueue_many([NewJob(job_type="t")] * 3)
    jobs = await worker.claim()
    outcomes = [Outcome(job, Verb.DONE) for job in jobs]

    async with locked(store, jobs[1].id):
        refused = await worker.engine.settle(worker.id, outcomes)
        assert [(r.id, r.verdict) for r in refused] == [(jobs[1].id, Verdict.BUSY)]

    refused = await worker.engine.settle(worker.id, outcomes)
    assert {(r.id, r.verdict) for r in refused} == {(jobs[0].id, Verdict.ALREADY), (jobs[2].id, Verdict.ALREADY)}
    assert {(await store.get(job.id)).status for job in jobs} == {JobStatus.DONE}


async def test_a_job_that_is_done_and_not_kept_is_gone_and_any_other_stays(
    store: Store, worker: RegisteredWorker
) -> None:
    await store.enqueue_many([NewJob(job_type="t")] * len(VERBS))
    jobs = await worker.claim()
    outcomes = [Outcome(job, verb, error="why") for job, verb in zip(jobs, VERBS, strict=True)]

    answers = await worker.engine.settle(worker.id, outcomes, keep_done=False)

    assert {a.id: a.verdict for a in answers} == {
        o.job.id: Verdict.WRITTEN for o in outcomes if o.verb is not Verb.DONE
    }

    for job, verb in zip(jobs, VERBS, strict=True):
        if verb is Verb.DONE:
            with pytest.raises(JobNotFound):
                await store.get(job.id)
            refused = await worker.engine.settle(worker.id, [Outcome(job, verb)], keep_done=False)
            assert [r.verdict for r in refused] == [Verdict.ALREADY]
        else:
            assert (await store.get(job.id)).status is not JobStatus.RUNNING


async def test_an_attempt_of_many_weeks_can_still_be_settled(store: Store, holder: Holder) -> None:
    await store.enqueue("t")
    job = await holder.claim_one()

    assert await holder.settle(job, Verb.DONE, duration_ms=10**12) is None

    assert (await store.get(job.id)).duration_ms == 2**31 - 1


@pytest.mark.parametrize("keep_done", [True, False])
async def test_a_claim_of_the_same_number_by_another_worker_is_not_ones_own(
    store: Store, register: Register, keep_done: bool
) -> None:
    job_id = await store.enqueue("t")
    mine, other = await register(), await register()
    job = await mine.claim_one()

    outcome = Outcome(job, Verb.DONE)
    [refusal] = await other.engine.settle(other.id, [outcome], keep_done=keep_done)

    assert refusal.verdict is Verdict.FENCED
    assert (await store.get(job_id)).status is JobStatus.RUNNING


async def test_a_job_that_has_failed_keeps_the_time_it_was_due(store: Store, holder: Holder) -> None:
    await store.enqueue("t", max_attempts=1)
    job = await holder.claim_one()

    await holder.settle(job, Verb.RETRY, error="boom", delay=3600.0)

    failed = await store.get(job.id)
    assert (failed.status, failed.run_after) == (JobStatus.FAILED, job.run_after)


async def test_an_outcome_without_result_or_error_leaves_the_earlier_ones_and_done_leaves_neither(
    store: Store, holder: Holder
) -> None:
    job_id = await store.enqueue("t")
    await holder.settle(await holder.claim_one(), Verb.RETRY, error="boom", result="1")
    for verb, result, error in ((Verb.SNOOZED, 1, "boom"), (Verb.DONE, None, None)):
        await holder.settle(await holder.claim_one(), verb)
        job = await store.get(job_id)
        assert (job.result, job.last_error) == (result, error)


@pytest.mark.parametrize(("verb", "verdict"), [(Verb.DONE, Verdict.ALREADY), (Verb.FAILED, Verdict.FENCED)])
async def test_an_outcome_told_twice_by_a_worker_that_is_no_more_was_written_if_the_job_is_done(
    store: Store, worker: RegisteredWorker, verb: Verb, verdict: Verdict
) -> None:
    await store.enqueue("t")
    job = await worker.claim_one()
    await worker.settle(job, verb)
    await worker.engine.unregister(worker.id)

    assert await worker.settle(job, verb) is verdict
