"""A worker fires schedules: at their slots, once, from whichever worker is alive."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import asyncpg
import pytest
from pydantic import BaseModel

from pqlite import Handlers, InvalidSchedule, JobContext, PayloadError, PgJobStore, Schedule, Worker
from pqlite.errors import ConfigurationError
from pqlite.events import Event, ScheduleFailed, ScheduleFired, ScheduleMissed, ScheduleSkipped
from pqlite.settings import WorkerSettings, from_environment


class Heard:
    """Hears events, and lets a test wait for the n-th of a kind."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._more = asyncio.Event()

    async def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._more.set()

    async def wait_for(self, kind: type[Any], count: int = 1) -> list[Any]:
        while len(found := [event for event in self.events if isinstance(event, kind)]) < count:
            self._more.clear()
            await self._more.wait()
        return found


async def nothing(ctx: JobContext) -> None: ...


def secondly(name: str = "s", **arguments: Any) -> Schedule:
    return Schedule(name, "job", every=1, **arguments)


async def test_slots_fire_within_a_tenth_of_a_second_and_the_job_knows_its_slot(store: PgJobStore) -> None:
    slots: list[datetime | None] = []

    async def handle(ctx: JobContext) -> None:
        slots.append(ctx.scheduled_for)

    heard = Heard()
    async with Worker(store=store, handlers={"job": handle}, schedules=[secondly()], observers=[heard]):
        fired = await heard.wait_for(ScheduleFired, 4)

    # the first may have waited for the worker's start
    assert all(event.lateness < timedelta(seconds=1) for event in fired)
    assert min(event.lateness for event in fired) < timedelta(milliseconds=100)
    assert all(b.slot - a.slot == timedelta(seconds=1) for a, b in pairwise(fired))
    assert {event.slot for event in fired[:3]} <= set(slots)


async def test_of_three_workers_one_fires_each_slot(store: PgJobStore, dsn: str) -> None:
    heard = Heard()
    workers = [
        Worker(store=store, handlers={"job": nothing}, schedules=[secondly(missed="all")], observers=[heard])
        for _ in range(3)
    ]
    async with workers[0], workers[1], workers[2]:
        fired = await heard.wait_for(ScheduleFired, 3)

    slots = [event.slot for event in fired]
    assert len(slots) == len(set(slots))


async def test_a_schedule_that_was_added_elsewhere_is_fired_by_a_worker_that_slept(store: PgJobStore, dsn: str) -> None:
    heard = Heard()
    async with Worker(store=store, handlers={"job": nothing}, observers=[heard]):
        async with PgJobStore(dsn=dsn) as elsewhere:
            await elsewhere.add_schedule(secondly())
        [fired] = await heard.wait_for(ScheduleFired)

    assert fired.name == "s"


async def test_without_schedules_the_scheduler_runs_no_statement_and_has_no_connection(
    store: PgJobStore, conn: asyncpg.Connection
) -> None:
    async with Worker(store=store, handlers={"job": nothing}) as worker:
        await conn.execute("select pg_notify('pqlite_wake', 'schedules')")
        await store.wait_for(await store.enqueue("job"))
        assert worker._running is not None
        parts = worker._running._parts
        assert not parts.schedule_link.connected
        assert parts.schedule_link.generation == 0


async def test_a_worker_without_a_scheduler_fires_nothing(store: PgJobStore) -> None:
    async with Worker(store=store, handlers={"job": nothing}, schedules=[secondly()], enable_scheduler=False):
        await store.wait_for(await store.enqueue("job"))

    assert await store.schedules() == []
    assert not from_environment(WorkerSettings(), {"WORKER_SCHEDULER_ENABLED": "no"}).enable_scheduler


async def test_a_worker_fires_schedules_of_jobs_that_it_has_no_handler_for(store: PgJobStore) -> None:
    heard = Heard()
    async with Worker(store=store, handlers={"other": nothing}, observers=[heard]):
        await store.add_schedule(secondly())
        await heard.wait_for(ScheduleFired)
        [failed] = await heard.wait_for(ScheduleFailed)
        await heard.wait_for(ScheduleSkipped, 2)

    assert "has a handler for job type 'job'" in failed.reason
    assert len([event for event in heard.events if isinstance(event, ScheduleFailed)]) == 1


async def test_a_faulty_row_is_told_once_in_the_log_and_the_others_go_on(
    store: PgJobStore, conn: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()
    await store.add_schedule(Schedule("broken", "job", cron="* * * * * *"))
    await conn.execute("update pqlite.schedules set cron = '0 0 30 2 *'")
    with caplog.at_level(logging.ERROR, "pqlite"):
        async with Worker(store=store, handlers={"job": nothing}, schedules=[secondly()], observers=[heard]):
            await heard.wait_for(ScheduleFailed)
            await heard.wait_for(ScheduleFired, 2)

    lines = [record.getMessage() for record in caplog.records if "broken" in record.getMessage()]
    assert len(lines) == 1
    assert "day 30 never comes" in lines[0]


async def test_what_passed_without_a_worker_is_told(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await store.add_schedule(Schedule("s", "job", cron="0 * * * *"))
    await conn.execute("update pqlite.schedules set handled_through = now() - interval '5 hours', next_at = now()")
    heard = Heard()
    async with Worker(store=store, handlers={"job": nothing}, observers=[heard]):
        [missed] = await heard.wait_for(ScheduleMissed)
        [fired] = await heard.wait_for(ScheduleFired)

    assert missed.slots in (4, 5)
    assert datetime.now(UTC) - fired.slot < timedelta(hours=1, minutes=1)


# What the code declares


async def test_schedules_are_declared_over_and_under_a_job_and_several_of_one(store: PgJobStore) -> None:
    handlers = Handlers()

    @handlers.cron("0 3 * * *", timezone="Europe/Berlin", priority=4)
    @handlers.every(timedelta(minutes=5), name="often", payload={"days": 7}, queue="quick")
    @handlers.job("report", queue="slow", max_attempts=2)
    @handlers.cron("0 12 * * mon", name="weekly", payload={"days": 9})
    async def report(ctx: JobContext, days: int = 1) -> None: ...

    heard = Heard()
    async with Worker(store=store, handlers=handlers, schedules=[secondly("ping")], observers=[heard]):
        await heard.wait_for(ScheduleFired)
        stored = {each.name: each for each in await store.schedules()}

    assert stored.keys() == {"report", "often", "weekly", "ping"}
    assert {each.defined_in for each in stored.values()} == {"code"}
    assert (stored["report"].payload, stored["report"].queue, stored["report"].priority) == ({}, "slow", 4)
    assert (stored["often"].payload, stored["often"].queue, stored["often"].max_attempts) == ({"days": 7}, "quick", 2)
    assert stored["weekly"].payload == {"days": 9}


class Order(BaseModel):
    id: int


def test_a_payload_that_does_not_fit_the_handler_is_refused_where_it_is_declared() -> None:
    handlers = Handlers()

    @handlers.job("whole")
    async def whole(ctx: JobContext, order: Order) -> None: ...

    handlers.cron("@daily", payload=Order(id=3))(whole)
    assert whole.schedules[0].job.payload == {"id": 3}
    with pytest.raises(PayloadError, match="days"):

        @handlers.cron("@daily", payload={"days": "seven"})
        @handlers.job("report")
        async def report(ctx: JobContext, days: int) -> None: ...

    with pytest.raises(PayloadError, match="Field required"):

        @handlers.cron("@daily")
        @handlers.job("other")
        async def other(ctx: JobContext, days: int) -> None: ...


def test_a_second_schedule_of_one_name_is_refused_at_import() -> None:
    handlers = Handlers()
    with pytest.raises(InvalidSchedule, match="give this one another name="):

        @handlers.cron("@daily")
        @handlers.cron("@hourly")
        @handlers.job("report")
        async def report(ctx: JobContext) -> None: ...


async def test_a_schedule_of_a_function_that_is_no_job_stops_the_worker(store: PgJobStore) -> None:
    handlers = Handlers()

    handlers.job("job")(nothing)

    @handlers.every(60)
    async def forgotten(ctx: JobContext) -> None: ...

    with pytest.raises(ConfigurationError, match=r"forgotten.*is no job of this registry"):
        Worker(store=store, handlers=handlers)


async def test_schedules_are_schedule_objects_of_different_names(store: PgJobStore) -> None:
    with pytest.raises(ConfigurationError, match="must be Schedule objects"):
        Worker(store=store, handlers={"job": nothing}, schedules=["@daily"])  # type: ignore[list-item]
    with pytest.raises(InvalidSchedule, match="Two schedules are called 's'"):
        Worker(store=store, handlers={"job": nothing}, schedules=[secondly(), secondly()])
