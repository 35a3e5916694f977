"""The reaper: how much it takes over at once, and what a slow takeover holds up."""

from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from pqlite import PgJobStore
from pqlite.events.announcer import Announcer
from pqlite.job import JobStatus, TakenOver
from pqlite.worker.reaper import BATCH, Reaper
from tests.support import until
from tests.worker.conftest import Run

TAKEN = TakenOver(id=1, job_type="t", queue="default", status=JobStatus.READY, attempts=1, locked_by="victim")


@pytest.mark.parametrize("error", [TimeoutError(), asyncpg.QueryCanceledError("statement timeout")])
async def test_a_batch_that_takes_too_long_is_tried_smaller_until_it_does_not(error: Exception) -> None:
    asked: list[int] = []

    async def reap(_judge: str, limit: int) -> list[TakenOver]:
        asked.append(limit)
        if limit > 10:
            raise error
        return [TAKEN]

    async def nothing(*_: Any) -> Any:
        return 0.0

    reaper = Reaper(
        reap=reap,
        reap_stale=nothing,
        next_death=nothing,
        expire=nothing,
        worker_id="w",
        stale_every=timedelta(hours=1),
        stale_after=timedelta(hours=1),
        announce=Announcer(),
        made_ready=lambda: None,
    )
    reaper.holder = "me"
    for _ in range(6):
        try:
            await reaper.step()
        except type(error):
            pass

    assert asked[0] == BATCH
    assert asked[1:4] == [BATCH // 4, BATCH // 16, BATCH // 64]
    assert asked[4] == 2 * asked[3]


async def test_a_takeover_that_hangs_holds_up_no_renewal(run: Run, store: PgJobStore, conn: asyncpg.Connection) -> None:
    await conn.execute("select pqlite.register('other', 'other', null, '1 hour', '{}')")
    await conn.execute(
        "create or replace function pqlite.next_death(p_judge text) returns double precision language sql as "
        "'select pg_sleep(60); select 1.0::double precision'"
    )
    renewed = """
        select from pg_stat_activity a, pqlite.workers w
        where a.datname = current_database() and a.query like '%next_death%' and a.wait_event = 'PgSleep'
          and w.label = 'w' and w.renewed_at > a.query_start
    """

    async with run({"t": lambda _ctx: None}, worker_id="w"):
        await until(lambda: conn.fetch(renewed), "a renewal during the takeover", 6.0)
