"""A long job shows how far it is, and a caller waits for several of them.

    export DATABASE_URL=postgresql://localhost/app
    python examples/progress.py

`ctx.progress` may be called often: it writes at most twice a second. `store.get(id).progress` and SQL show the latest.
"""

import asyncio
import os
import sys

from pqlite import JobContext, PgJobStore, Worker

DSN = os.environ.get("DATABASE_URL") or sys.exit("Set DATABASE_URL, such as postgresql://localhost/app")


async def export(ctx: JobContext) -> int:
    """Export some pages."""
    pages = ctx.job.payload["pages"]
    for page in range(1, pages + 1):
        await ctx.progress(page / pages, f"page {page} of {pages}")
        await asyncio.sleep(0.1)
    return pages


store = PgJobStore(dsn=DSN)
worker = Worker(store=store, handlers={"export": export})


async def main() -> None:
    """Export twice, look once, and wait for both."""
    async with store:
        await store.migrate()
        async with worker:
            long = await store.enqueue("export", {"pages": 12})
            short = await store.enqueue("export", {"pages": 2})
            first = await store.wait_for_any([long, short])
            print(f"job {first.id} is done; job {long}: {(await store.get(long)).progress}")
            async for outcome in store.as_completed([long, short]):
                print(f"job {outcome.id}: {outcome.result} pages")


if __name__ == "__main__":
    asyncio.run(main())
