"""`pqlite jobs`, `pqlite explain` and `pqlite enqueue`, as a person and as a script use them."""

import json

import pytest

from pqlite import JobStatus, PgJobStore
from tests.cli.process import pqlite


async def test_a_job_is_enqueued_listed_shown_and_explained(dsn: str, store: PgJobStore) -> None:
    made = await pqlite("enqueue", "mail", "to=ada", "n=7", "--queue", "outgoing", "--dsn", dsn)
    assert made.out == "Enqueued job 1.\n"
    assert (await store.get(1)).payload == {"to": "ada", "n": 7}

    listed = (await pqlite("jobs", "--type", "mail", "--dsn", dsn)).out.splitlines()
    assert listed[1].split()[:5] == ["1", "mail", "outgoing", "READY", "0/5"]
    shown = json.loads((await pqlite("jobs", "show", "1", "--json", "--dsn", dsn)).out)
    assert (shown["status"], [each["code"] for each in shown["reasons"]]) == ("READY", ["NO_WORKER", "DUE"])
    explained = (await pqlite("explain", "1", "--dsn", dsn)).out
    assert explained.startswith("NO_WORKER: no worker is running\nDUE: it is due since ")


async def test_a_change_by_filter_needs_yes_and_one_by_ids_does_not(dsn: str, store: PgJobStore) -> None:
    for _ in range(2):
        await store.enqueue("t")

    asked = await pqlite("jobs", "cancel", "--type", "t", "--dsn", dsn)
    assert asked.out == "2 jobs match. Nothing was changed: --yes does it.\n"
    done = await pqlite("jobs", "cancel", "--type", "t", "--yes", "--json", "--dsn", dsn)
    assert json.loads(done.out) == {"matched": 2, "changed": 2}
    again = await pqlite("jobs", "retry", "2", "--dsn", dsn)
    assert again.out == "1 job matched, 1 changed.\n"
    assert (await store.get(2)).status is JobStatus.READY


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("jobs", "retry"), "pqlite jobs retry needs ids or a filter; --all means all jobs."),
        (("jobs", "show"), "pqlite jobs show needs the id of one job."),
        (("jobs", "set-queue", "1"), "pqlite jobs set-queue needs --to."),
        (("enqueue", "t", "x"), "'x' is not KEY=VALUE."),
    ],
)
async def test_a_command_that_is_used_wrongly_says_how(dsn: str, arguments: tuple[str, ...], sentence: str) -> None:
    ran = await pqlite(*arguments, "--dsn", dsn)

    assert (ran.status, ran.err) == (2, sentence + "\n")
