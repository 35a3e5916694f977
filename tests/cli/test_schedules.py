"""`pqlite schedules`, as a person and as a script use it."""

import json

import pytest

from pqlite import PgJobStore, Schedule
from tests.cli.process import pqlite


async def test_schedules_are_listed_paused_resumed_and_run(dsn: str, store: PgJobStore) -> None:
    assert (await pqlite("schedules", "--dsn", dsn)).out == "There are no schedules.\n"
    await store.add_schedule(Schedule("nightly", "report", cron="0 3 * * *", timezone="Europe/Berlin"))

    listed = await pqlite("schedules", "list", "--dsn", dsn)
    assert listed.out.splitlines()[1].startswith("nightly  report    0 3 * * * (Europe/Berlin)  active")
    paused = await pqlite("schedules", "pause", "nightly", "--dsn", dsn, "--json")
    assert json.loads(paused.out)["paused_at"] is not None
    assert "paused" in (await pqlite("schedules", "show", "nightly", "--dsn", dsn)).out
    resumed = await pqlite("schedules", "resume", "nightly", "--dsn", dsn, "--json")
    assert json.loads(resumed.out)["next_at"] is not None
    ran = await pqlite("schedules", "run", "nightly", "--dsn", dsn, "--json")
    assert json.loads(ran.out) == {"job_id": 1, "inserted": True}
    assert "active already" in (await pqlite("schedules", "run", "nightly", "--dsn", dsn)).out


async def test_the_next_slots_are_printed_one_a_line(dsn: str, store: PgJobStore) -> None:
    await store.add_schedule(Schedule("nightly", "report", cron="0 3 * * *"))

    lines = (await pqlite("schedules", "next", "nightly", "--count", "3", "--dsn", dsn)).out.splitlines()

    assert len(lines) == 3
    assert all(line.endswith("T03:00:00+00:00") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("show", "x"), 1, "There is no schedule 'x'."),
        (("pause",), 2, "pqlite schedules pause needs the name of a schedule."),
        (("list", "x"), 2, "pqlite schedules list takes no name."),
        (("next", "x", "--count", "0"), 2, "--count must be 1 to 1000, not 0."),
    ],
)
async def test_what_cannot_be_done_is_said_in_a_sentence(
    dsn: str, arguments: tuple[str, ...], status: int, sentence: str
) -> None:
    ran = await pqlite("schedules", *arguments, "--dsn", dsn)

    assert (ran.status, ran.out, ran.err) == (status, "", sentence + "\n")
