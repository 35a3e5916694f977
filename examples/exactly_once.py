"""An effect in the same database happens exactly once, although its job may start more than once.

    export DATABASE_URL=postgresql://localhost/app
    python examples/exactly_once.py

What is written on the connection of `ctx.complete()` and the job's DONE are one transaction. Here the first attempt
dies after its write: the write is undone, the job runs again, and the ledger has one entry.
"""

import asyncio
import os
import sys

from pqlite import BackoffPolicy, JobContext, PgJobStore, Worker

DSN = os.environ.get("DATABASE_URL") or sys.exit("Set DATABASE_URL, such as postgresql://localhost/app")

LEDGER = "create table if not exists ledger (account text not null, cents bigint not null)"


class AtOnce(BackoffPolicy):
    """Retry without a pause."""

    def retry_delay(self, attempts: int) -> float:
        """Return no delay."""
        return 0.0


async def deposit(ctx: JobContext) -> None:
    """Credit an account. On `conn`, and only there, the entry and DONE are one."""
    account, cents = ctx.job.payload["account"], ctx.job.payload["cents"]
    async with ctx.complete(result={"credited": cents}) as conn:
        await conn.execute("insert into ledger (account, cents) values ($1, $2)", account, cents)
        if ctx.attempt == 1:
            raise RuntimeError("the power fails, after the write")
    worker.begin_shutdown()


store = PgJobStore(dsn=DSN)
worker = Worker(store=store, handlers={"deposit": deposit}, backoff=AtOnce())


async def main() -> None:
    """Deposit once, and show the ledger."""
    async with store:
        await store.migrate()
        async with store.connection() as conn:
            await conn.execute(LEDGER)
        job_id = await store.enqueue("deposit", {"account": "ada", "cents": 500})
        await worker.run()
        async with store.connection() as conn:
            entries = await conn.fetch("select account, cents from ledger")
    print(f"job {job_id}: {[tuple(entry) for entry in entries]}")


if __name__ == "__main__":
    asyncio.run(main())
