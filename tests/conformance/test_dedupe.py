"""At most one active job has a key, whoever races for it."""

from pqlite import Enqueued
from pqlite.outcome import Verb
from tests.conformance.conftest import Store
from tests.store.workers import RegisteredWorker


async def test_the_verdicts_of_a_batch_are_in_the_order_given_and_say_what_is_new(store: Store) -> None:
    there = await store.enqueue("t", dedupe_key="m")

    verdicts = await store.enqueue_many(
        [{"job_type": f"t{n}", "dedupe_key": key} for n, key in enumerate(["z", None, "m", "a", "z", None])]
    )

    assert [verdict.inserted for verdict in verdicts] == [True, True, False, True, False, True]
    assert verdicts[2] == Enqueued(there, False)
    assert verdicts[4].id == verdicts[0].id
    for position in (0, 1, 3, 5):
        assert (await store.get(verdicts[position].id)).job_type == f"t{position}"


async def test_the_first_of_two_equal_keys_in_a_batch_is_the_one_that_is_stored(store: Store) -> None:
    verdicts = await store.enqueue_many([{"job_type": "t", "payload": n, "dedupe_key": "k"} for n in range(3)])

    assert len({verdict.id for verdict in verdicts}) == 1
    assert (await store.get(verdicts[0].id)).payload == 0


async def test_a_job_that_is_retried_keeps_its_key(store: Store, worker: RegisteredWorker) -> None:
    job_id = await store.enqueue("t", dedupe_key="k")
    await worker.settle(await worker.claim_one(), Verb.RETRY, delay=3600)

    assert await store.enqueue("t", dedupe_key="k") == job_id
