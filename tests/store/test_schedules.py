"""Schedules as rows: the store's verbs, the SQL functions, and what a plan does to them."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import asyncpg
import pytest

from pqlite import (
    InvalidJob,
    InvalidSchedule,
    NewJob,
    PgJobStore,
    Schedule,
    ScheduleExists,
    ScheduleNotFound,
)
from pqlite.errors import DedupeConflict
from pqlite.store.scheduling import Verdict, defined, planned

GRACE = timedelta(minutes=5)
EVERY_MINUTE = Schedule("s", "job", {"n": 1}, cron="* * * * *")


async def rewind(conn: asyncpg.Connection, name: str = "s", seconds: float = 60) -> None:
    """Make a schedule one that was last looked at so long ago."""
    await conn.execute(
        "update pqlite.schedules set handled_through = clock_timestamp() - make_interval(secs => $2), "
        "next_at = clock_timestamp() where name = $1",
        name,
        seconds,
    )


async def fire(store: PgJobStore) -> list[Verdict]:
    """Do what a worker does about what is due."""
    port = store._schedules()
    return await port.fire([planned(due) for due in await port.due(100) if due.next_at <= due.now])


async def jobs(conn: asyncpg.Connection) -> list[asyncpg.Record]:
    return await conn.fetch("select *, metadata ->> 'scheduled_for' as scheduled_for from pqlite.jobs order by id")


async def test_a_schedule_that_was_added_has_its_next_slot_at_once(store: PgJobStore) -> None:
    added = await store.add_schedule(
        Schedule(
            "nightly",
            NewJob(job_type="report", payload={"of": "all"}, queue="mail", version=3),
            cron="0 3 * * *",
            timezone="Europe/Berlin",
            jitter=90,
            priority=2,
            tags=["a"],
        )
    )

    assert added == await store.schedule("nightly")
    assert (added.job_type, added.payload, added.queue, added.priority) == ("report", {"of": "all"}, "mail", 2)
    assert (added.tags, added.metadata, added.jitter) == (["a"], {"payload_version": 3}, timedelta(seconds=90))
    assert added.next_at == (await store.next_ticks("nightly", 1))[0]
    assert [each.name for each in await store.schedules()] == ["nightly"]
    with pytest.raises(ScheduleExists):
        await store.add_schedule(Schedule("nightly", "other", every=60))


async def test_a_slot_that_is_due_becomes_a_job_that_knows_it_and_none_is_fired_twice(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await store.add_schedule(EVERY_MINUTE)
    await rewind(conn)

    told = await fire(store)

    [job] = await jobs(conn)
    assert [(each.verdict, each.job_id) for each in told] == [("FIRED", job["id"])]
    assert told[0].slot == datetime.fromisoformat(job["scheduled_for"])
    assert (await store.get(job["id"])).metadata == {"schedule": "s", "scheduled_for": job["scheduled_for"]}
    stored = await store.schedule("s")
    assert (stored.last_slot, stored.last_job_id, stored.fired) == (told[0].slot, job["id"], 1)
    assert stored.next_at is not None
    assert stored.next_at > datetime.now(UTC) - timedelta(seconds=5)
    # whatever becomes of next_at
    await conn.execute("update pqlite.schedules set next_at = next_at - interval '1 hour'")
    assert [each.verdict for each in await fire(store)] == []
    assert len(await jobs(conn)) == 1
    assert (await store.schedule("s")).next_at == stored.next_at


async def test_of_many_that_fire_the_same_plan_one_does(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await store.add_schedule(EVERY_MINUTE)
    await rewind(conn)
    port = store._schedules()
    plans = [planned(due) for due in await port.due(10)]

    told = await asyncio.gather(*(port.fire(plans) for _ in range(8)))

    assert sum(len(each) for each in told) == 1
    assert len(await jobs(conn)) == 1


async def test_a_plan_made_before_a_change_changes_nothing(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await store.add_schedule(EVERY_MINUTE)
    await rewind(conn)
    plans = [planned(due) for due in await store._schedules().due(10)]
    await store.pause_schedule("s")
    await store.resume_schedule("s")

    assert await store._schedules().fire(plans) == []
    assert await jobs(conn) == []


@pytest.mark.parametrize("status", ["READY", "BLOCKED", "RUNNING"])
async def test_a_slot_is_skipped_while_the_previous_job_is_active(
    store: PgJobStore, conn: asyncpg.Connection, status: str
) -> None:
    await store.add_schedule(EVERY_MINUTE)
    await rewind(conn)
    await fire(store)
    await conn.execute(
        "update pqlite.jobs set status = $1, locked_by = case when $1 = 'RUNNING' then 'w' end, "
        "run_after = now() + interval '1 hour'",
        status,
    )
    await rewind(conn)

    told = await fire(store)

    [job] = await jobs(conn)
    assert ("SKIPPED", job["id"], status) in [(each.verdict, each.job_id, each.detail) for each in told]
    assert (await store.schedule("s")).skipped == 1


async def test_with_allow_jobs_of_a_schedule_are_active_side_by_side(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await store.add_schedule(Schedule("s", "job", cron="* * * * *", overlap="allow"))
    for _ in range(2):
        await rewind(conn)
        await fire(store)

    assert len(await jobs(conn)) == 2


async def test_with_queue_slots_wait_for_the_previous_job_and_then_fire_in_order(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await store.add_schedule(Schedule("s", "job", cron="* * * * *", overlap="queue"))
    await rewind(conn, seconds=60)
    await fire(store)
    first = (await jobs(conn))[0]
    # three minutes later, while the first job is still there
    await conn.execute("update pqlite.jobs set metadata = '{}'")
    await rewind(conn, seconds=181)
    told = await fire(store)
    assert [each.verdict for each in told if each.verdict != "MISSED"] == ["HELD"]
    held = await store.schedule("s")
    assert held.held_since is not None

    slots = []
    for _ in range(3):
        await conn.execute("update pqlite.jobs set status = 'DONE', finished_at = now()")
        await conn.execute("update pqlite.schedules set next_at = clock_timestamp()")
        slots += [each.slot for each in await fire(store) if each.verdict == "FIRED"]

    assert len(slots) >= 2
    assert slots == sorted(slots)
    assert all((b - a) == timedelta(minutes=1) for a, b in pairwise(slots) if a and b)
    assert first["status"] == "READY"


async def test_two_jobs_of_a_schedule_are_never_active_not_by_hand(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await store.add_schedule(EVERY_MINUTE)
    first = await store.run_schedule_now("s")
    again = await store.run_schedule_now("s")
    assert (first.inserted, again) == (True, (first.id, False))

    await conn.execute("update pqlite.jobs set status = 'DONE', finished_at = now()")
    await rewind(conn)
    await fire(store)
    with pytest.raises(DedupeConflict):
        await store.retry(first.id)

    await conn.execute("update pqlite.jobs set status = 'DONE', finished_at = now()")
    await store.retry(first.id)  # now it is the active one
    await rewind(conn)
    assert "SKIPPED" in [each.verdict for each in await fire(store)]


async def test_a_job_by_hand_knows_when_it_was_asked_for_and_moves_no_slot(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    added = await store.add_schedule(EVERY_MINUTE)
    await store.pause_schedule("s")

    job = await store.get((await store.run_schedule_now("s")).id)

    assert abs(datetime.fromisoformat(job.metadata["scheduled_for"]) - job.created_at) < timedelta(seconds=1)
    assert (job.metadata["schedule"], job.metadata["run_now"]) == ("s", True)
    await store.resume_schedule("s")
    assert (await store.schedule("s")).fired == added.fired == 0


async def test_slots_in_a_pause_do_not_fire(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await store.add_schedule(EVERY_MINUTE)
    paused = await store.pause_schedule("s")
    assert (paused.next_at, paused.paused_at is None) == (None, False)
    await conn.execute("update pqlite.schedules set handled_through = now() - interval '1 hour'")
    assert await fire(store) == []

    resumed = await store.resume_schedule("s")

    assert resumed.paused_at is None
    assert resumed.next_at is not None
    assert resumed.next_at > datetime.now(UTC) - timedelta(seconds=5)
    assert await fire(store) == []


async def test_a_change_moves_the_next_slot_at_once_and_gives_up_what_lies_before_it(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await store.add_schedule(EVERY_MINUTE)
    await rewind(conn, seconds=7200)

    changed = await store.change_schedule("s", cron="30 4 * * *", timezone="Asia/Tokyo", payload={"n": 2}, priority=9)

    assert (changed.cron, changed.timezone, changed.payload, changed.priority) == (
        "30 4 * * *",
        "Asia/Tokyo",
        {"n": 2},
        9,
    )
    assert changed.next_at is not None
    assert (changed.next_at.hour, changed.next_at.minute) == (19, 30)
    assert await fire(store) == []
    changed = await store.change_schedule("s", every=timedelta(hours=1))
    assert (changed.cron, changed.every, changed.timezone) == (None, timedelta(hours=1), "UTC")
    kept = await store.change_schedule("s", queue="mail")
    assert (kept.queue, kept.next_at, kept.every) == ("mail", changed.next_at, timedelta(hours=1))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"cron": "0 0 30 2 *"}, InvalidSchedule),
        ({"timezone": "Nowhere"}, InvalidSchedule),
        ({"overlap": "never"}, InvalidSchedule),
        ({"nmae": "x"}, InvalidSchedule),
        ({"queue": ""}, InvalidJob),
        ({"max_attempts": 0}, InvalidJob),
    ],
)
async def test_a_change_that_cannot_work_is_refused_and_changes_nothing(
    store: PgJobStore, changes: dict[str, Any], error: type[Exception]
) -> None:
    before = await store.add_schedule(EVERY_MINUTE)

    with pytest.raises(error):
        await store.change_schedule("s", **changes)

    assert await store.schedule("s") == before


async def test_verbs_about_a_schedule_that_does_not_exist_say_so(store: PgJobStore) -> None:
    for verb in (
        store.schedule("x"), store.change_schedule("x", priority=1), store.remove_schedule("x"),
        store.pause_schedule("x"), store.resume_schedule("x"), store.run_schedule_now("x"), store.next_ticks("x"),
    ):  # fmt: skip
        with pytest.raises(ScheduleNotFound, match="no schedule 'x'"):
            await verb


async def test_a_removed_schedule_is_gone_and_its_jobs_stay(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await store.add_schedule(EVERY_MINUTE)
    await store.run_schedule_now("s")

    await store.remove_schedule("s")

    assert await store.schedules() == []
    assert len(await jobs(conn)) == 1


@pytest.mark.parametrize(
    ("nonsense", "problem"),
    [
        ("cron = '61 * * * *'", "minute is 0 to 59, not 61"),
        ("timezone = 'Mars/Olympus'", "no time zone 'Mars/Olympus'"),
        ("queue = ''", "jobs_queue_length"),
        ("max_attempts = 0", "jobs_max_attempts_positive"),
        ("job_type = repeat('x', 300)", "jobs_job_type_length"),
    ],
)
async def test_a_row_edited_to_nonsense_says_why_once_and_the_others_go_on(
    store: PgJobStore, conn: asyncpg.Connection, nonsense: str, problem: str
) -> None:
    for name in ("a", "b", "c"):
        await store.add_schedule(Schedule(name, "job", cron="* * * * *"))
    await conn.execute(f"update pqlite.schedules set {nonsense} where name = 'b'")
    for name in ("a", "b", "c"):
        await rewind(conn, name)

    told = {each.name: each for each in await fire(store)}

    assert {name: each.verdict for name, each in told.items()} == {"a": "FIRED", "b": "FAILED", "c": "FIRED"}
    assert problem in (told["b"].detail or "")
    [row] = await conn.fetch("select * from pqlite.schedule_stats where name = 'b'")
    assert (row["state"], problem in row["problem"]) == ("failing", True)
    assert (await store.schedule("b")).problem == row["problem"]
    await rewind(conn, "b")
    assert await fire(store) == []  # nothing new to tell
    await conn.execute(
        "update pqlite.schedules set cron = '* * * * *', timezone = 'UTC', queue = 'q', max_attempts = 1, "
        "job_type = 'job' where name = 'b'"
    )
    await rewind(conn, "b")
    assert [each.verdict for each in await fire(store)] == ["FIRED"]
    assert (await store.schedule("b")).problem is None


async def test_a_slot_skipped_because_nobody_has_a_handler_says_so(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await store.add_schedule(EVERY_MINUTE)
    for _ in range(2):
        await rewind(conn)
        await fire(store)

    assert "no worker that runs has a handler for job type 'job'" in str((await store.schedule("s")).problem)


async def test_the_failure_of_the_latest_job_is_in_the_statistics(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await store.add_schedule(EVERY_MINUTE)
    await store.run_schedule_now("s")
    await conn.execute("update pqlite.jobs set status = 'FAILED', last_error = E'Traceback\\nFail: no such thing'")

    assert (await store.schedule("s")).problem == "its latest job failed: Fail: no such thing"


async def test_jitter_delays_the_job_and_not_its_slot(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await store.add_schedule(Schedule("s", "job", cron="* * * * *", jitter=3600))
    await rewind(conn)

    [fired] = await fire(store)

    [job] = await jobs(conn)
    assert fired.slot is not None
    assert fired.slot < job["run_after"] < fired.slot + timedelta(hours=1)


# What code defines


async def reconcile(
    store: PgJobStore, *schedules: Schedule, disable: bool = False, grace: timedelta = GRACE
) -> Mapping[str, str]:
    return dict(await store._schedules().reconcile(defined(schedules, 1 << 20), grace, disable=disable))


async def forget(conn: asyncpg.Connection, minutes: int = 6) -> None:
    """Let it be long ago that a release called with its definitions."""
    await conn.execute("update pqlite.schedules set seen_at = clock_timestamp() - make_interval(mins => $1)", minutes)


OLD = Schedule("s", "job", cron="0 1 * * *")
NEW = Schedule("s", "job", cron="0 2 * * *")


async def test_definitions_are_added_once_and_changed_when_the_code_changes(store: PgJobStore) -> None:
    assert await reconcile(store, OLD) == {"s": "ADDED"}
    assert await reconcile(store, OLD) == {}
    assert await reconcile(store, NEW) == {"s": "CHANGED"}
    assert ((await store.schedule("s")).cron, (await store.schedule("s")).defined_in) == ("0 2 * * *", "code")


async def test_in_a_rolling_deploy_the_newer_definition_wins_once_and_the_older_leaves_it(store: PgJobStore) -> None:
    await reconcile(store, OLD)
    await reconcile(store, NEW)

    for _ in range(3):
        assert await reconcile(store, OLD) == {"s": "OLDER"}
        assert await reconcile(store, NEW) == {}
    assert (await store.schedule("s")).cron == "0 2 * * *"


async def test_after_a_rollback_the_older_definition_comes_back_when_the_newer_release_is_gone(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await reconcile(store, OLD)
    await reconcile(store, NEW)
    await forget(conn)

    assert await reconcile(store, OLD) == {"s": "CHANGED"}
    assert await reconcile(store, NEW) == {"s": "OLDER"}
    assert (await store.schedule("s")).cron == "0 1 * * *"


async def test_what_no_release_defines_any_more_is_disabled_after_a_grace_time_and_comes_back_with_its_code(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await reconcile(store, OLD, Schedule("t", "job", every=60))
    await store.add_schedule(Schedule("by_hand", "job", every=60))
    assert await reconcile(store, OLD, disable=True) == {}
    await forget(conn)

    assert await reconcile(store, OLD, disable=True) == {"t": "DISABLED"}
    stored = {each.name: each for each in await store.schedules()}
    assert (stored["t"].next_at, stored["t"].disabled_at is None) == (None, False)
    assert stored["by_hand"].next_at is not None
    assert await reconcile(store, Schedule("t", "job", every=60)) == {"t": "ENABLED"}
    assert (await store.schedule("t")).disabled_at is None


async def test_what_an_operator_changed_stays_until_the_code_changes_and_a_pause_until_it_is_ended(
    store: PgJobStore,
) -> None:
    await reconcile(store, OLD)
    await store.change_schedule("s", cron="0 9 * * *")
    await store.pause_schedule("s")

    assert await reconcile(store, OLD) == {}
    assert (await store.schedule("s")).cron == "0 9 * * *"
    assert await reconcile(store, NEW) == {"s": "CHANGED"}
    changed = await store.schedule("s")
    assert (changed.cron, changed.paused_at is None, changed.next_at) == ("0 2 * * *", False, None)


async def test_a_schedule_defined_in_code_cannot_be_removed_until_its_code_is_gone(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await reconcile(store, OLD)
    with pytest.raises(ScheduleExists, match="defined in code"):
        await store.remove_schedule("s")
    await forget(conn)
    await reconcile(store, disable=True)

    await store.remove_schedule("s")

    assert await store.schedules() == []


async def test_code_leaves_alone_what_was_added_at_run_time_by_its_name(store: PgJobStore) -> None:
    await store.add_schedule(Schedule("s", "other", every=60))

    assert await reconcile(store, OLD) == {"s": "TAKEN"}
    assert (await store.schedule("s")).job_type == "other"


async def test_ten_workers_that_start_at_once_add_each_schedule_once(store: PgJobStore) -> None:
    schedules = [Schedule(f"s{n}", "job", every=60) for n in range(20)]

    told = await asyncio.gather(*(reconcile(store, *schedules) for _ in range(10)))

    assert sorted(name for each in told for name in each) == sorted(each.name for each in schedules)


def test_two_schedules_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidSchedule, match="Two schedules are called 's'"):
        defined([OLD, NEW], 1 << 20)
