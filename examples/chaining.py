"""Jobs in a chain: each step ends by enqueueing the next.

    export DATABASE_URL=postgresql://localhost/app
    python examples/chaining.py

The next job is enqueued in the transaction that makes this one DONE. So the chain neither breaks nor forks, even if
the process dies between two steps.
"""

import asyncio
import os
import sys

from pqlite import JobContext, PgJobStore, Worker

DSN = os.environ.get("DATABASE_URL") or sys.exit("Set DATABASE_URL, such as postgresql://localhost/app")


async def charge(ctx: JobContext) -> None:
    """Take the money, then pack."""
    print(f"charged order {ctx.job.payload['order']}")
    async with ctx.complete() as conn:
        await ctx.store.enqueue("pack", ctx.job.payload, conn=conn)


async def pack(ctx: JobContext) -> None:
    """Pack the goods, then ship."""
    print(f"packed order {ctx.job.payload['order']}")
    async with ctx.complete() as conn:
        await ctx.store.enqueue("ship", ctx.job.payload, priority=10, conn=conn)


async def ship(ctx: JobContext) -> None:
    """Ship the parcel: the end of the chain, and of this example."""
    print(f"shipped order {ctx.job.payload['order']}")
    worker.begin_shutdown()


store = PgJobStore(dsn=DSN)
worker = Worker(store=store, handlers={"charge": charge, "pack": pack, "ship": ship})


async def main() -> None:
    """Start a chain, and run until its end."""
    async with store:
        await store.migrate()
        await store.enqueue("charge", {"order": 7})
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main())
