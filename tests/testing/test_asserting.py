from datetime import timedelta

import pytest
from pydantic import BaseModel

from pqlite import JobStatus, NewJob
from pqlite.testing import assert_enqueued, drain, jobs_of
from tests.conformance.conftest import Store


class Mail(BaseModel):
    to: int
    text: str = "hello"


async def test_jobs_that_look_as_expected_are_returned_whatever_their_status(store: Store) -> None:
    async def mail(ctx: object) -> None:
        """Succeed."""

    first = await store.enqueue("mail", {"to": 7, "text": "hello"}, queue="slow", tags=["a"])
    await drain(store, {"mail": mail})
    second = await store.enqueue("mail", {"to": 8}, run_after=timedelta(hours=1))

    assert [job.id for job in await assert_enqueued(store, "mail")] == [first, second]
    [found] = await assert_enqueued(store, "mail", payload=Mail(to=7), queue="slow", tags=["a"], count=1)
    assert (found.id, found.status) == (first, JobStatus.DONE)
    await assert_enqueued(store, "mail", count=2)
    await assert_enqueued(store, "mail", payload={"to": 9}, count=0)
    await assert_enqueued(store, "other", count=0)


async def test_a_failure_tells_how_the_jobs_of_the_type_differ(store: Store) -> None:
    await store.enqueue("mail", {"to": 7, "text": "hello"}, queue="slow")

    with pytest.raises(AssertionError) as caught:
        await assert_enqueued(store, "mail", payload={"to": 8, "text": "hello"}, queue="fast")

    assert str(caught.value).splitlines() == [
        "Expected at least one job of type 'mail', queue='fast', payload={'to': 8, 'text': 'hello'}; found 0.",
        "Job 1 differs:",
        "  queue:",
        '    - "fast"',
        '    + "slow"',
        "  payload:",
        "      {",
        '        "text": "hello",',
        '    -   "to": 8',
        '    +   "to": 7',
        "      }",
    ]


async def test_a_difference_that_json_does_not_show_is_told_all_the_same(store: Store) -> None:
    await store.enqueue("mail", tags=["a"], metadata={"a": 1})

    with pytest.raises(AssertionError) as caught:
        await assert_enqueued(store, "mail", tags=("a",), metadata={"a": 1, 2: 3})

    assert str(caught.value).splitlines()[1:] == [
        "Job 1 differs:",
        "  tags:",
        "    - ('a',)",
        "    + ['a']",
        "  metadata:",
        "    - {'a': 1, 2: 3}",
        "    + {'a': 1}",
    ]


async def test_a_failure_tells_what_was_enqueued_instead(store: Store) -> None:
    with pytest.raises(AssertionError, match="Enqueued were: none at all"):
        await assert_enqueued(store, "mail")
    await store.enqueue_many([{"job_type": "sms"}] * 2)
    with pytest.raises(AssertionError, match="Enqueued were: 2 'sms'"):
        await assert_enqueued(store, "mail")
    with pytest.raises(AssertionError, match="Expected 0 jobs of type 'sms'; found 2") as caught:
        await assert_enqueued(store, "sms", count=0)
    assert "job 1: READY" in str(caught.value)
    with pytest.raises(AssertionError, match="Expected 1 job of type 'sms'; found 2"):
        await assert_enqueued(store, "sms", count=1)


async def test_a_job_may_be_given_as_it_was_enqueued(store: Store) -> None:
    await store.enqueue(NewJob(job_type="mail", payload={"to": 7}, queue="slow"))

    await assert_enqueued(store, NewJob(job_type="mail", payload={"to": 7}), queue="slow", count=1)
    with pytest.raises(AssertionError, match=r"'mail', payload=\{'to': 8\}; found 0"):
        await assert_enqueued(store, NewJob(job_type="mail", payload={"to": 8}))


async def test_what_is_no_job_type_is_a_mistake_of_the_test_and_never_that_there_is_none(store: Store) -> None:
    async def mail(ctx: object) -> None:
        """Succeed."""

    with pytest.raises(TypeError, match="Not the name of a job type"):
        await assert_enqueued(store, mail, count=0)  # type: ignore[arg-type]


async def test_what_no_job_has_is_a_mistake_of_the_test(store: Store) -> None:
    with pytest.raises(TypeError, match="A job has no 'payloads'"):
        await assert_enqueued(store, "mail", payloads={})


async def test_with_a_connection_what_its_transaction_has_enqueued_is_seen(store: Store) -> None:
    async with store.transaction() as tx:
        await store.enqueue("mail", conn=tx)
        await assert_enqueued(store, "mail", count=0)
        await assert_enqueued(store, "mail", count=1, conn=tx)
        assert len(await jobs_of(store, conn=tx)) == 1
