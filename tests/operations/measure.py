"""How long the operator's verbs take beside millions of jobs: `python -m tests.operations.measure [rows]`.

Loads rows of mixed states into an embedded PostgreSQL, and prints the median and the 95th percentile of each verb.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pqlite import PgJobStore
from pqlite.embedded import EmbeddedPostgres
from pqlite.operations import JobFilter, Operations
from tests.conftest import fast_directory

TRIES = 40
LOAD = """
    insert into pqlite.jobs (job_type, queue, status, priority, created_at, run_after, finished_at, duration_ms,
                             last_error, payload, tags, dedupe_key, locked_by, locked_at)
    select 'type' || n % 20, 'queue' || n % 5, s.status, n % 3, t.at, t.at + s.later,
           case when s.status in ('DONE', 'FAILED', 'CANCELLED') then t.at + interval '1 s' end, n % 1000,
           case when s.status = 'FAILED' then (array['Timeout: slow', 'ValueError: no'])[1 + n % 2] end,
           jsonb_build_object('customer', n % 100000), array['tag' || n % 50], case when n % 10 = 0 then 'key' || n end,
           case when s.status = 'RUNNING' then 'worker' || n % 8 end, case when s.status = 'RUNNING' then now() end
    from generate_series($1::int, $2) n
    cross join lateral (select now() - ($3 - n) * interval '0.1 s' as at) t
    cross join lateral (
      select case when n % 100 < 60 then 'DONE' when n % 100 < 70 then 'FAILED' when n % 100 < 72 then 'CANCELLED'
                  when n % 20000 = 19999 then 'RUNNING' else 'READY' end as status,
             case when n % 100 >= 90 then interval '1 year' else interval '0' end as later) s
"""


async def main(rows: int) -> None:
    """Load the rows and measure each verb."""
    async with EmbeddedPostgres(fsync=False, port=0, temp_dir=fast_directory()) as server:
        async with PgJobStore(dsn=server.dsn, timeout=300) as store:
            await store.migrate()
            began = time.monotonic()
            async with store.connection() as conn:
                for start in range(0, rows, 250_000):
                    await conn.execute(LOAD, start, min(start + 249_999, rows - 1), rows, timeout=300)
                await conn.execute("vacuum analyze pqlite.jobs", timeout=300)
            print(f"{rows:,} rows loaded in {time.monotonic() - began:.0f} s")
            await measure(Operations(store), rows)


async def measure(operations: Operations, rows: int) -> None:
    """Print how long each verb takes."""
    lists = {
        "newest": JobFilter(),
        "READY of a type": JobFilter(status="READY", job_type="type19"),
        "FAILED of a type": JobFilter(status="FAILED", job_type="type3"),
        "FAILED with an error": JobFilter(status="FAILED", error="timeout"),
        "RUNNING": JobFilter(status="RUNNING"),
        "of a worker": JobFilter(worker="worker7"),
        "a tag": JobFilter(tag="tag7"),
        "a payload (rare)": JobFilter(payload={"customer": 77}),
        "a key (no job)": JobFilter(key="nobody"),
    }
    for name, wanted in lists.items():
        await timed(f"list_jobs: {name}", lambda wanted=wanted: operations.list_jobs(wanted))
    await timed("count: FAILED of a type", lambda: operations.count(JobFilter(status="FAILED", job_type="type3")))
    for position in (0.2, 0.9):
        job_id = int(rows * position) // 100 * 100 + 80
        await timed(f"explain at {position:.0%}", lambda job_id=job_id: operations.explain(job_id))
    await timed("stats", operations.stats)
    await timed("doctor", operations.doctor)
    await timed("workers", operations.workers)
    await timed("retry 500", lambda: operations.retry(JobFilter(status="FAILED"), limit=500))
    await timed("cancel 500", lambda: operations.cancel(JobFilter(status="READY"), limit=500))


async def timed(name: str, call: Callable[[], Awaitable[Any]]) -> None:
    """Print the median and the 95th percentile of a call."""
    took = []
    for _ in range(TRIES):
        began = time.perf_counter()
        await call()
        took.append((time.perf_counter() - began) * 1000)
        if sum(took) > 5000 and len(took) >= 3:
            break
    took.sort()
    print(f"{name:32} {took[len(took) // 2]:8.1f} ms  p95 {took[int(len(took) * 0.95)]:8.1f} ms", flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
