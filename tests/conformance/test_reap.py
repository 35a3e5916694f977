"""Death is a fact about a worker, never about a job's age; and what becomes of jobs that nobody holds any more."""

from datetime import timedelta

import pytest

from pqlite import JobStatus, LeaseLost
from pqlite.outcome import Verb, Verdict
from tests.conformance.conftest import Store
from tests.conformance.scene import Scene
from tests.store.conftest import Register
from tests.store.workers import RegisteredWorker
from tests.support import until

pytestmark = pytest.mark.usefixtures("postgres_only")

LEASE = timedelta(seconds=20)
KEY, JUDGES_KEY = 4711, 4712


async def renew(worker: RegisteredWorker, lock_key: int | None = None) -> list[tuple[int, int]]:
    return await worker.engine.renew(worker.id, LEASE, lock_key, deadline=5.0)


@pytest.fixture
async def judge(register: Register, scene: Scene) -> RegisteredWorker:
    judge = await register(lock_key=JUDGES_KEY)
    await scene.take_lock(judge, JUDGES_KEY)
    return judge


async def test_a_worker_whose_lease_has_passed_is_dead_and_its_jobs_are_ready_again(
    store: Store, scene: Scene, judge: RegisteredWorker, worker: RegisteredWorker
) -> None:
    job_id = await store.enqueue("t", queue="q")
    claimed = await worker.claim_one()
    await scene.pass_time(timedelta(seconds=21))
    await scene.make_steady(judge)

    [taken] = await judge.engine.reap(judge.id)

    assert (taken.id, taken.job_type, taken.queue, taken.locked_by) == (job_id, "t", "q", worker.id)
    assert (taken.status, taken.attempts) == (JobStatus.READY, 1)
    job = await store.get(job_id)
    assert (job.status, job.attempts, job.claims, job.crashes) == (JobStatus.READY, 1, 1, 1)
    assert (job.locked_by, job.locked_at) == (None, None)
    assert job.last_error == f"worker died ({worker.id})"
    assert [(error["attempt"], error["error"]) for error in job.errors] == [(1, job.last_error)]
    assert await worker.settle(claimed, Verb.DONE) is Verdict.FENCED
    with pytest.raises(LeaseLost):
        await renew(worker)


async def test_a_worker_that_is_silent_for_less_than_its_lease_and_has_no_lock_lives(
    store: Store, scene: Scene, judge: RegisteredWorker, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    await worker.claim_one()
    await scene.pass_time(timedelta(seconds=19))
    await scene.make_steady(judge)

    assert await judge.engine.reap(judge.id) == []
    assert await renew(worker) == []


@pytest.mark.parametrize(("seconds", "dies"), [(7, False), (9, True)])
async def test_a_worker_whose_lock_is_free_is_dead_eight_seconds_after_its_last_renewal(
    store: Store, scene: Scene, judge: RegisteredWorker, register: Register, seconds: int, dies: bool
) -> None:
    worker = await register(lock_key=KEY)
    await store.enqueue("t")
    await worker.claim_one()
    await scene.pass_time(timedelta(seconds=seconds))
    await scene.make_steady(judge)

    assert len(await judge.engine.reap(judge.id)) == dies


async def test_a_silent_worker_whose_lock_is_held_lives_until_its_session_ends(
    store: Store, scene: Scene, judge: RegisteredWorker, register: Register
) -> None:
    worker = await register(lock_key=KEY)
    await scene.take_lock(worker, KEY)
    await store.enqueue("t")
    await worker.claim_one()
    await scene.pass_time(timedelta(seconds=9))
    await scene.make_steady(judge)

    assert await judge.engine.reap(judge.id) == []
    await worker.engine.link.close()

    async def dead() -> bool:
        return len(await judge.engine.reap(judge.id)) == 1

    await until(dead)


async def test_nobody_is_judged_by_a_worker_that_has_not_itself_renewed_steadily(
    store: Store, scene: Scene, judge: RegisteredWorker, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    await worker.claim_one()
    await scene.pass_time(timedelta(seconds=60))

    assert await judge.engine.reap("nobody") == []
    assert await judge.engine.reap(judge.id) == []
    await renew(judge, JUDGES_KEY)
    assert await judge.engine.reap(judge.id) == []
    await scene.make_steady(judge)
    assert len(await judge.engine.reap(judge.id)) == 1


@pytest.mark.parametrize(("silent", "judges"), [(5, 1), (7, 0)])
async def test_nobody_is_judged_by_a_worker_that_has_itself_been_silent_for_long(
    store: Store, scene: Scene, register: Register, worker: RegisteredWorker, silent: int, judges: int
) -> None:
    judge = await register()
    await store.enqueue("t")
    await worker.claim_one()
    await scene.pass_time(timedelta(seconds=60))
    await scene.make_steady(judge)
    await scene.pass_time(timedelta(seconds=silent))

    assert len(await judge.engine.reap(judge.id)) == judges


async def test_a_worker_never_judges_itself(scene: Scene, judge: RegisteredWorker) -> None:
    await scene.pass_time(timedelta(hours=1))
    await scene.make_steady(judge)

    assert await judge.engine.reap(judge.id) == []
    assert await renew(judge, JUDGES_KEY) == []


async def test_a_job_that_kills_its_workers_ends_failed_at_max_attempts(store: Store, register: Register) -> None:
    job_id = await store.enqueue("poison", max_attempts=3)
    for attempt in range(1, 4):
        victim = await register()
        assert (await victim.claim_one()).attempts == attempt
        assert not await victim.engine.unregister(victim.id)
        [taken] = await victim.engine.reap("nobody")
        assert taken.status == ("READY" if attempt < 3 else "FAILED")

    job = await store.get(job_id)
    assert (job.status, job.attempts, job.crashes, len(job.errors)) == (JobStatus.FAILED, 3, 3, 3)
    assert job.finished_at is not None


@pytest.mark.parametrize("max_attempts", [1, 5])
async def test_a_job_asked_to_cancel_whose_worker_died_is_cancelled(
    store: Store, worker: RegisteredWorker, max_attempts: int
) -> None:
    await store.enqueue("t", max_attempts=max_attempts)
    job = await worker.claim_one()
    await store.cancel(job.id)
    await worker.engine.unregister(worker.id)

    assert [taken.status for taken in await worker.engine.reap("nobody")] == [JobStatus.CANCELLED]
    assert (await store.get(job.id)).finished_at is not None


async def test_a_job_is_a_suspect_until_somebody_retries_it(store: Store, worker: RegisteredWorker) -> None:
    job_id = await store.enqueue("t")
    await worker.claim_one()
    await worker.engine.unregister(worker.id)
    await worker.engine.reap("nobody")

    assert await worker.engine.lanes(None, None) == []
    await store.retry(job_id)
    assert len(await worker.engine.lanes(None, None)) == 1
    assert (await store.get(job_id)).crashes == 0


async def test_a_worker_without_jobs_is_gone_when_it_unregisters(store: Store, worker: RegisteredWorker) -> None:
    await store.enqueue("t")
    await worker.settle(await worker.claim_one(), Verb.DONE)

    for _ in range(2):
        assert await worker.engine.unregister(worker.id)
    with pytest.raises(LeaseLost):
        await renew(worker)


async def test_next_death_is_eight_seconds_after_the_oldest_renewal_of_another(
    scene: Scene, store: Store, judge: RegisteredWorker, register: Register
) -> None:
    assert await judge.engine.next_death(judge.id) is None
    first = await register()
    await scene.pass_time(timedelta(seconds=5))
    await register()

    seconds = await judge.engine.next_death(judge.id)
    assert seconds is not None
    assert 2 < seconds <= 3

    await store.enqueue("t")
    await first.claim_one()
    await first.engine.unregister(first.id)
    later = await judge.engine.next_death(judge.id)
    assert later is not None
    assert 7 < later <= 8


# Holders that are no registered worker


async def test_jobs_of_strangers_are_given_back_by_age_and_never_those_of_registered_workers(
    store: Store, scene: Scene, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    kept = await worker.claim_one()
    strangers = [await store.enqueue("t", timeout_seconds=seconds) for seconds in (None, 60, 1e300)]
    for _ in strangers:
        assert await store.pickup("somebody")

    await scene.pass_time(timedelta(seconds=59))
    assert await store.reap_stale() == 0
    await scene.pass_time(timedelta(seconds=2))
    assert await store.reap_stale() == 1
    assert (await store.get(strangers[1])).status is JobStatus.READY
    assert await store.reap_stale(default_stale_after=timedelta(seconds=60)) == 1
    after = await store.get(strangers[0])
    assert (after.status, after.crashes) == (JobStatus.READY, 1)
    assert (after.last_error or "").startswith("abandoned (somebody-")
    await scene.pass_time(timedelta(days=1))
    assert await store.reap_stale() == 0
    assert (await store.get(kept.id)).status is JobStatus.RUNNING


async def test_a_worker_that_was_declared_dead_or_never_registered_cannot_renew(
    store: Store, worker: RegisteredWorker
) -> None:
    await store.enqueue("t")
    await worker.claim_one()
    await worker.engine.unregister(worker.id)  # while it holds a job: it is marked dead

    for holder in (worker.id, "nobody"):
        with pytest.raises(LeaseLost, match=f"worker {holder} was declared dead"):
            await worker.engine.renew(holder, timedelta(seconds=20), None, deadline=5.0)
