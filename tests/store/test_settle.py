"""What each outcome makes of a job, and what is said of outcomes that were not written."""

import json
from datetime import timedelta

import asyncpg
import pytest

from pqlite import NewJob, PgJobStore
from pqlite.outcome import Outcome, Verb, Verdict
from tests.store.workers import RegisteredWorker, fetch_job

VERBS = list(Verb)


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
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker, verb: Verb, status: str, attempts: int
) -> None:
    before = await store.get(await store.enqueue("t"))
    job = await worker.claim_one()

    assert await worker.settle(job, verb, delay=90.0, duration_ms=12) is None

    row = await fetch_job(conn, job.id)
    assert (row["status"], row["attempts"], row["claims"], row["crashes"]) == (status, attempts, 1, 0)
    assert (row["locked_by"], row["locked_at"], row["duration_ms"]) == (None, None, 12)
    assert (row["finished_at"] is None) is (status == "READY")
    waited = row["run_after"] - row["updated_at"]
    assert (
        waited == timedelta(seconds=90) if verb in (Verb.RETRY, Verb.SNOOZED) else row["run_after"] == before.run_after
    )


async def test_the_last_attempt_of_a_job_that_is_to_be_retried_makes_it_failed(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue("t", max_attempts=2)
    for attempt, status in ((1, "READY"), (2, "FAILED")):
        job = await worker.claim_one()
        assert await worker.settle(job, Verb.RETRY, error=f"error {attempt}") is None
        row = await fetch_job(conn, job.id)
        assert (row["status"], row["attempts"], row["claims"]) == (status, attempt, attempt)
        assert (row["last_error"], row["finished_at"] is None) == (f"error {attempt}", status == "READY")


# Not written


@pytest.mark.parametrize("verb", VERBS)
async def test_an_outcome_told_twice_was_written_already_and_changes_nothing(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker, verb: Verb
) -> None:
    await store.enqueue("t")
    job = await worker.claim_one()
    await worker.settle(job, verb, error="first", delay=60.0)
    before = await fetch_job(conn, job.id)

    assert await worker.settle(job, verb, error="second", delay=60.0) is Verdict.ALREADY

    assert await fetch_job(conn, job.id) == before


@pytest.mark.parametrize("verb", VERBS)
async def test_an_outcome_told_again_after_the_job_was_claimed_anew_is_fenced(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker, verb: Verb
) -> None:
    await store.enqueue("t")
    stale = await worker.claim_one()
    await worker.settle(stale, Verb.RELEASED)
    await worker.claim_one()
    before = await fetch_job(conn, stale.id)

    assert await worker.settle(stale, verb) is Verdict.FENCED

    assert await fetch_job(conn, stale.id) == before


async def test_only_the_rows_a_stranger_has_locked_are_busy_and_can_be_offered_again(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue_many([NewJob(job_type="t")] * 3)
    jobs = await worker.claim()
    outcomes = [Outcome(job, Verb.DONE) for job in jobs]

    async with conn.transaction():
        await conn.execute("update pqlite.jobs set progress = '1' where id = $1", jobs[1].id)
        refused = await worker.engine.settle(worker.id, outcomes)
        assert [(r.id, r.verdict) for r in refused] == [(jobs[1].id, Verdict.BUSY)]

    refused = await worker.engine.settle(worker.id, outcomes)
    assert {(r.id, r.verdict) for r in refused} == {(jobs[0].id, Verdict.ALREADY), (jobs[2].id, Verdict.ALREADY)}
    assert await conn.fetchval("select count(*) from pqlite.jobs where status = 'DONE'") == 3


async def test_a_batch_of_every_kind_of_outcome_and_verdict_is_told_apart(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue_many([NewJob(job_type="t")] * 4)
    written, deleted, repeated, stale = await worker.claim()
    await conn.execute("delete from pqlite.jobs where id = $1", deleted.id)
    await worker.settle(repeated, Verb.DONE)
    await conn.execute("update pqlite.jobs set claims = claims + 1 where id = $1", stale.id)

    refused = await worker.engine.settle(
        worker.id, [Outcome(job, Verb.DONE) for job in (stale, repeated, deleted, written)]
    )

    assert {(r.id, r.claims): r.verdict for r in refused} == {
        (deleted.id, 1): Verdict.FENCED,
        (repeated.id, 1): Verdict.ALREADY,
        (stale.id, 1): Verdict.FENCED,
    }


async def test_a_worker_of_the_release_before_is_told_of_refusals_alone(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue_many([NewJob(job_type="t")] * 3)
    await worker.claim()
    call = """
        select id, claims, verdict from pqlite.settle(
          $1, '{1,2,3}', '{1,1,7}', '{RETRY,FAILED,RETRY}', '{}', '{oops,oops,oops}', '{0,0,0}', '{1,1,1}')
    """

    rows = await conn.fetch(call, worker.id)

    assert [tuple(row) for row in rows] == [(3, 7, "FENCED")]


async def test_a_batch_of_five_hundred_is_written_whole(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue_many([NewJob(job_type="t")] * 500)
    jobs = await worker.claim(500)

    outcomes = [Outcome(job, Verb.DONE, result=json.dumps({"id": job.id})) for job in jobs]
    assert await worker.engine.settle(worker.id, outcomes) == []

    right = "select count(*) from pqlite.jobs where status = 'DONE' and (result ->> 'id')::bigint = id"
    assert await conn.fetchval(right) == 500


async def test_an_attempt_of_many_weeks_can_still_be_settled(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    job = await worker.claim_one()

    assert await worker.settle(job, Verb.DONE, duration_ms=10**12) is None

    assert (await fetch_job(conn, job.id))["duration_ms"] == 2**31 - 1


# Jobs that are not kept


async def test_a_job_that_is_done_and_not_kept_is_gone_and_any_other_stays(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue_many([NewJob(job_type="t")] * len(VERBS))
    jobs = await worker.claim()
    outcomes = [Outcome(job, verb, error="why") for job, verb in zip(jobs, VERBS, strict=True)]

    answers = await worker.engine.settle(worker.id, outcomes, keep_done=False)

    assert {a.id: a.verdict for a in answers} == {
        o.job.id: Verdict.WRITTEN for o in outcomes if o.verb is not Verb.DONE
    }

    left = await conn.fetch("select id, status from pqlite.jobs order by id")
    expected = {Verb.RETRY: "READY", Verb.FAILED: "FAILED", Verb.CANCELLED: "CANCELLED"}
    assert [(r["id"], r["status"]) for r in left] == [
        (job.id, expected.get(verb, "READY")) for job, verb in zip(jobs, VERBS, strict=True) if verb is not Verb.DONE
    ]


async def test_what_was_not_kept_is_told_apart_when_it_is_offered_again(
    store: PgJobStore, conn: asyncpg.Connection, worker: RegisteredWorker
) -> None:
    await store.enqueue_many([NewJob(job_type="t")] * 4)
    gone, locked, stale, new = await worker.claim()
    await worker.engine.settle(worker.id, [Outcome(gone, Verb.DONE)], keep_done=False)
    await conn.execute("update pqlite.jobs set claims = claims + 1 where id = $1", stale.id)

    outcomes = [Outcome(job, Verb.DONE) for job in (gone, locked, stale, new)]
    async with conn.transaction():
        await conn.execute("select from pqlite.jobs where id = $1 for key share", locked.id)
        refused = await worker.engine.settle(worker.id, outcomes, keep_done=False)

    assert {r.id: r.verdict for r in refused} == {
        gone.id: Verdict.ALREADY,
        new.id: Verdict.ALREADY,
        stale.id: Verdict.FENCED,
    }
    assert (await store.get(locked.id)).status == "DONE"  # it cannot be deleted, but it can be written
    assert [r["id"] for r in await conn.fetch("select id from pqlite.jobs order by id")] == [locked.id, stale.id]


# Cancellation asked for while the job runs
