"""The primary is lost and its standby promoted, while workers work and producers produce.

It needs initdb, postgres and pg_basebackup in one place: `pytest tests/faults/test_failover.py`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from pqlite import PgJobStore
from pqlite.errors import PqliteError
from tests.faults import standby
from tests.faults.scene import Scene
from tests.faults.standby import Pair
from tests.support import until


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    if reason := standby.missing():
        pytest.skip(reason)
    async with Pair() as made:
        yield made


async def test_workers_move_to_the_promoted_standby_and_nothing_committed_is_lost(pair: Pair, tmp_path: Path) -> None:
    """Replication is synchronous, so that what was said to be committed is known to the standby: every job whose
    enqueue returned, every effect whose completion returned. Claims commit without waiting and may be lost; their jobs
    run again, which the fence decides.
    """
    async with Scene(pair.dsn, tmp_path) as scene:
        for label in ("one", "two"):
            await scene.spawn(label)
        await scene.enqueue_many("effect", 200, seconds=0.1)
        ends = asyncio.Event()
        producer = asyncio.create_task(produce(scene, ends))
        await scene.line("end", count=50)

        await pair.primary.stop("immediate")
        before = len(scene.ids)
        async with PgJobStore(dsn=pair.dsn) as late:
            with pytest.raises(OSError, match="No host of the dsn accepts writes"):
                await late.enqueue("effect")  # the standby is there, and is not written to
        await pair.promote()

        await scene.enqueue_many("effect", 20)
        late_job = await scene.enqueue("effect")

        def both_run_late_jobs() -> bool:
            return {line.label for line in scene.reader.lines("end") if (line.job or 0) >= late_job} == {"one", "two"}

        await until(both_run_late_jobs, "both workers to run what came after the promotion", 60.0)
        ends.set()
        await producer
        await scene.drained()
        acknowledged = len(scene.ids)
        # Of some the answer was lost, after their commit.
        scene.ids += [id for (id,) in await scene.fetch("select id from pqlite.jobs") if id not in scene.ids]
        await scene.audit(overlaps=True)

    assert before < acknowledged


async def test_a_read_only_server_costs_the_connection_and_the_next_one_finds_the_primary(
    pair: Pair,
) -> None:
    """As where a name leads to another server after a failover."""
    leads_to = {"dsn": pair.standbys_dsn}

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(leads_to["dsn"])

    async with PgJobStore(connect=connect) as store:
        link = store.engine("claimer").link
        for options in ({}, {"dedupe_key": "k"}) * 2:
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await store.enqueue("t", **options)
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await store.enqueue_many([{"job_type": "t"}] * 3)
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await link.fetch("select pqlite.cancel(1)", deadline=5.0)
        assert not link.connected

        leads_to["dsn"] = pair.dsn

        ids = [await store.enqueue("t"), await store.enqueue("t", dedupe_key="k")]
        assert (await link.fetch("select count(*) from pqlite.jobs", deadline=5.0)) == [(len(ids),)]
        await link.close()


async def produce(scene: Scene, ends: asyncio.Event) -> None:
    """Enqueue all the time; remember what was acknowledged."""
    while not ends.is_set():
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, PqliteError):
            async with asyncio.timeout(2.0):
                await scene.enqueue("effect", seconds=0.01)
        await asyncio.sleep(0.02)
