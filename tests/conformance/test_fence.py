"""A worker whose claim is no longer current can change nothing, by any verb."""

import pytest

from pqlite import LeaseLost
from pqlite.outcome import Verb, Verdict
from tests.conformance.conftest import Store
from tests.conformance.scene import Holder
from tests.store.conftest import Register


async def test_the_right_claim_number_is_not_enough_without_the_right_worker(store: Store, register: Register) -> None:
    """After a failover to a standby that lags, the counter can go back."""
    mine, thief = await register(), await register()
    await store.enqueue("t")
    job = await mine.claim_one()

    assert await thief.settle(job, Verb.DONE) is Verdict.FENCED
    assert await mine.settle(job, Verb.DONE) is None


async def test_the_right_worker_is_not_enough_without_the_right_claim_number(store: Store, holder: Holder) -> None:
    await store.enqueue("t")
    first = await holder.claim_one()
    await holder.settle(first, Verb.RELEASED)
    second = await holder.claim_one()

    assert await holder.settle(first, Verb.DONE) is Verdict.FENCED
    with pytest.raises(LeaseLost):
        async with store.complete(first):
            pass
    assert await holder.settle(second, Verb.DONE) is None
