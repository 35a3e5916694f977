"""Schedules of a store in memory: a test moves through time."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from pqlite import Handlers, JobContext, PgJobStore, Schedule
from pqlite.errors import ConfigurationError, DedupeConflict, ScheduleExists, ScheduleNotFound
from pqlite.testing import Clock, MemoryJobStore, drain

MARCH, APRIL = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)


@pytest.fixture
async def memory() -> AsyncIterator[MemoryJobStore]:
    async with MemoryJobStore(clock=Clock(MARCH)) as store:
        yield store


async def test_a_test_moves_through_a_month(memory: MemoryJobStore) -> None:
    handlers = Handlers()
    ran: list[datetime | None] = []

    @handlers.cron("0 3 * * *", timezone="Europe/Berlin")
    @handlers.job("report")
    async def report(ctx: JobContext) -> None:
        assert memory.clock.now() == ctx.scheduled_for
        ran.append(ctx.scheduled_for)

    jobs = await drain(memory, handlers, now=APRIL)

    assert len(jobs) == len(ran) == 31
    assert ran[0] == datetime(2026, 3, 1, 2, tzinfo=UTC)
    assert ran[-1] == datetime(2026, 3, 31, 1, tzinfo=UTC)  # summer time
    assert memory.clock.now() == APRIL
    stored = await memory.schedule("report")
    assert (stored.fired, stored.last_job_status) == (31, "DONE")
    assert stored.next_at == datetime(2026, 4, 1, 1, tzinfo=UTC)


async def test_without_now_what_is_due_fires(memory: MemoryJobStore) -> None:
    async def handle(ctx: JobContext) -> None: ...

    ping = Schedule("ping", "ping", every=60)
    assert await drain(memory, {"ping": handle}, schedules=[ping]) == []
    memory.clock.advance(timedelta(seconds=60))

    [job] = await drain(memory, {"ping": handle}, schedules=[ping])

    assert job.metadata == {"schedule": "ping", "scheduled_for": "2026-03-01T00:01:00+00:00"}


async def test_overlap_is_as_on_postgresql(memory: MemoryJobStore) -> None:
    async def nothing(ctx: JobContext) -> None: ...

    for overlap in ("skip", "queue", "allow"):
        await memory.add_schedule(Schedule(overlap, "nobody", every=3600, overlap=overlap, missed="all"))  # type: ignore[arg-type]
    await drain(memory, {"other": nothing}, now=MARCH + timedelta(hours=3))

    stored = {each.name: each for each in await memory.schedules()}
    counts = {name: (each.fired, each.skipped) for name, each in stored.items()}
    assert counts == {"skip": (1, 2), "queue": (1, 0), "allow": (3, 0)}
    assert stored["queue"].held_since is not None
    await drain(memory, {"nobody": nothing}, now=MARCH + timedelta(hours=3, minutes=5))
    assert (await memory.schedule("queue")).fired == 3


async def test_the_verbs_do_what_they_do_on_postgresql(memory: MemoryJobStore) -> None:
    added = await memory.add_schedule(Schedule("s", "job", cron="0 * * * *"))
    assert added.next_at == MARCH + timedelta(hours=1)
    with pytest.raises(ScheduleExists):
        await memory.add_schedule(Schedule("s", "job", every=60))
    first = await memory.run_schedule_now("s")
    assert (await memory.run_schedule_now("s")) == (first.id, False)
    await memory.cancel(first.id)
    second = await memory.run_schedule_now("s")
    with pytest.raises(DedupeConflict):
        await memory.retry(first.id)
    assert second.inserted
    assert (await memory.pause_schedule("s")).next_at is None
    assert (await memory.resume_schedule("s")).next_at == MARCH + timedelta(hours=1)
    changed = await memory.change_schedule("s", every=timedelta(hours=2), payload={"n": 1})
    assert (changed.cron, changed.next_at, changed.payload) == (None, MARCH + timedelta(hours=2), {"n": 1})
    await memory.remove_schedule("s")
    with pytest.raises(ScheduleNotFound):
        await memory.schedule("s")


async def test_time_is_not_moved_on_postgresql_nor_backwards(memory: MemoryJobStore, dsn: str) -> None:
    async def nothing(ctx: JobContext) -> None: ...

    async with PgJobStore(dsn=dsn) as store:
        with pytest.raises(ConfigurationError, match="MemoryJobStore"):
            await drain(store, {"job": nothing}, now=APRIL)
    with pytest.raises(ValueError, match="forward"):
        await drain(memory, {"job": nothing}, now=MARCH - timedelta(days=1))
