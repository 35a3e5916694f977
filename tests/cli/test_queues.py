"""`pqlite queues`, as a person and as a script use it."""

import json

import pytest

from pqlite import PgJobStore
from tests.cli.process import pqlite


async def test_queues_are_listed_paused_and_resumed(dsn: str, store: PgJobStore) -> None:
    assert (await pqlite("queues", "--dsn", dsn)).out == "There are no jobs.\n"
    await store.enqueue("mail", queue="outgoing")

    paused = await pqlite("queues", "pause", "outgoing", "--reason", "it is down", "--minutes", "60", "--dsn", dsn)
    assert paused.out == "The queue 'outgoing' is paused.\n"
    [pause] = await store.pauses()
    assert (pause.name, pause.reason, pause.until is not None) == ("outgoing", "it is down", True)

    listed = (await pqlite("queues", "--dsn", dsn)).out.splitlines()
    assert listed[1].split()[:7] == ["outgoing", "mail", "1", "0", "0", "0", "0"]
    assert listed[3].startswith("The queue 'outgoing' is paused by ")
    assert listed[3].endswith(" UTC: it is down")
    resumed = await pqlite("queues", "resume", "outgoing", "--dsn", dsn, "--json")
    assert json.loads(resumed.out) == {"resumed": True}
    again = await pqlite("queues", "resume", "outgoing", "--dsn", dsn)
    assert again.out == "The queue 'outgoing' was not paused.\n"


async def test_a_job_type_and_a_key_are_paused(dsn: str, store: PgJobStore) -> None:
    await pqlite("queues", "pause", "mail", "--job-type", "--dsn", dsn)
    await pqlite("queues", "pause", "tenant:7", "--key", "--dsn", dsn)

    listed = json.loads((await pqlite("queues", "--dsn", dsn, "--json")).out)

    assert [(each["scope"], each["name"]) for each in listed["pauses"]] == [("job_type", "mail"), ("key", "tenant:7")]


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("pause",), 2, "pqlite queues pause needs a name."),
        (("list", "x"), 2, "pqlite queues list takes no name."),
        (("pause", "x", "--minutes", "0"), 2, "--minutes must be above 0 and at most 5,000,000, not 0."),
    ],
)
async def test_what_cannot_be_done_is_said_in_a_sentence(
    dsn: str, arguments: tuple[str, ...], status: int, sentence: str
) -> None:
    ran = await pqlite("queues", *arguments, "--dsn", dsn)

    assert (ran.status, ran.out, ran.err) == (status, "", sentence + "\n")
