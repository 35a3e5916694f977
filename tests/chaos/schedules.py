"""Kill workers at the slots of schedules, move next_at, restart the server; then count: each slot exactly once.

python -m tests.chaos.schedules --minutes 3 --schedules 50 --processes 3 --seed 7
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import asyncpg

from pqlite import JobContext, PgJobStore, Schedule, Worker
from pqlite.embedded import EmbeddedPostgres
from tests.conftest import fast_directory

SECOND = timedelta(seconds=1)
OVERLAPPING = """
    select dedupe_key from pqlite.jobs where dedupe_key is not null and status in ('READY', 'BLOCKED', 'RUNNING')
    group by dedupe_key having count(*) > 1
"""


@dataclass
class Verdict:
    """What the storm has left. `doubled` and `lost` are slots of schedules that fire all of them."""

    slots: int = 0
    doubled: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    overlapping: list[str] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)


async def storm(
    dsn: str, seconds: float, *, schedules: int, processes: int, seed: int, server: EmbeddedPostgres | None = None
) -> Verdict:
    """Let workers fire schedules that come every second, and disturb them for so long; return what came of it."""
    rng = random.Random(seed)
    verdict = Verdict()
    async with PgJobStore(dsn=dsn) as store:
        for number in range(schedules):
            await store.add_schedule(Schedule(f"all {number}", "quick", every=1, missed="all", overlap="allow"))
        for number in range(5):
            await store.add_schedule(Schedule(f"one {number}", "slow", every=1, max_attempts=20))
        workers = [await _start(dsn) for _ in range(processes)]
        ends = asyncio.get_running_loop().time() + seconds
        try:
            while asyncio.get_running_loop().time() < ends:
                await asyncio.sleep(rng.uniform(0.1, 0.9))
                fault = rng.choices(("SIGKILL", "next_at", "restart"), weights=(12, 4, 1 if server else 0))[0]
                verdict.faults[fault] += 1
                if fault == "SIGKILL":
                    victim = rng.randrange(processes)
                    workers[victim].kill()
                    await workers[victim].wait()
                    workers[victim] = await _start(dsn)
                elif fault == "next_at":
                    await _move(store, rng)
                elif server is not None:
                    await server.restart()
                verdict.overlapping += [row[0] for row in await _patiently(store, OVERLAPPING)]
            await _caught_up(store)
        finally:
            for worker in workers:
                worker.kill()
                await worker.wait()
        await _count(store, verdict)
    return verdict


async def _start(dsn: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.schedules", "--worker", dsn), stderr=asyncio.subprocess.DEVNULL
    )


async def _move(store: PgJobStore, rng: random.Random) -> None:
    """Move next_at by an hour, as a clock that is set would: back for some; forth for others, and soon back again."""
    back, forth = (f"all {rng.randrange(5)}", f"all {5 + rng.randrange(5)}")
    move = "update pqlite.schedules set next_at = next_at + $2::interval where name = $1"
    await _patiently(store, move, back, timedelta(hours=-1))
    await _patiently(store, move, forth, timedelta(hours=1))
    await asyncio.sleep(rng.uniform(0.5, 2.0))
    await _patiently(store, "update pqlite.schedules set next_at = clock_timestamp() where name = $1", forth)


async def _patiently(store: PgJobStore, sql: str, *args: object) -> list[asyncpg.Record]:
    while True:
        try:
            async with asyncio.timeout(2.0), store.connection() as conn:
                return await conn.fetch(sql, *args)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await asyncio.sleep(0.1)


async def _caught_up(store: PgJobStore) -> None:
    """Wait until everything that was due when this was called is dealt with."""
    [(now,)] = await _patiently(store, "select clock_timestamp()")
    behind = "select from pqlite.schedules where name like 'all%' and (last_slot is null or last_slot < $1)"
    async with asyncio.timeout(30.0):
        while await _patiently(store, behind, now):
            await asyncio.sleep(0.2)


async def _count(store: PgJobStore, verdict: Verdict) -> None:
    rows = await _patiently(
        store,
        "select metadata ->> 'schedule' as name, metadata ->> 'scheduled_for' as slot, created_at from pqlite.jobs "
        "where metadata ->> 'schedule' like 'all%' order by 1, 2",
    )
    fired: dict[str, list[datetime]] = {}
    for row in rows:
        slot = datetime.fromisoformat(row["slot"])
        fired.setdefault(row["name"], []).append(slot)
        verdict.lateness.append((row["created_at"] - slot).total_seconds())
    for name, slots in fired.items():
        verdict.slots += len(slots)
        verdict.doubled += [f"{name} at {slot}" for slot, count in Counter(slots).items() if count > 1]
        expected = {min(slots) + n * SECOND for n in range(round((max(slots) - min(slots)).total_seconds()) + 1)}
        verdict.lost += [f"{name} at {slot}" for slot in sorted(expected - set(slots))]


async def _work(dsn: str) -> None:
    async def quick(ctx: JobContext) -> None: ...

    async def slow(ctx: JobContext) -> None:
        await asyncio.sleep(1.3)

    await Worker(store=PgJobStore(dsn=dsn), handlers={"quick": quick, "slow": slow}, concurrency=50).run()


async def _main(options: argparse.Namespace) -> int:
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    server = EmbeddedPostgres(fsync=False, port=0, temp_dir=fast_directory(), settings={"max_connections": "200"})
    async with server:
        async with PgJobStore(dsn=server.dsn) as store:
            await store.migrate()
        verdict = await storm(
            server.dsn,
            options.minutes * 60,
            schedules=options.schedules,
            processes=options.processes,
            seed=seed,
            server=server,
        )
    late = statistics.quantiles(verdict.lateness, n=100)
    print(f"seed {seed}; {dict(verdict.faults)}")
    print(f"{verdict.slots} slots: {len(verdict.doubled)} doubled, {len(verdict.lost)} lost")
    print(f"lateness: median {late[49]:.3f} s, p99 {late[98]:.3f} s, worst {max(verdict.lateness):.3f} s")
    print(f"two active jobs of a schedule that skips: {len(verdict.overlapping)} times")
    print("\n".join([*verdict.doubled[:10], *verdict.lost[:10]]))
    return 1 if verdict.doubled or verdict.lost or verdict.overlapping else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--schedules", type=int, default=50)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--worker", metavar="DSN")
    options = parser.parse_args()
    if options.worker:
        asyncio.run(_work(options.worker))
    else:
        raise SystemExit(asyncio.run(_main(options)))
