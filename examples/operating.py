"""Find out why a job does not run, and retry all failures of a type that have the same cause.

    export DATABASE_URL=postgresql://localhost/app
    python examples/operating.py

From a shell: `pqlite explain 1`, and `pqlite jobs retry --status FAILED --type send_invoice --error timeout --yes`.
"""

import asyncio
import os
import sys

from pqlite import JobContext, PgJobStore, Worker
from pqlite.operations import JobFilter, Operations

DSN = os.environ.get("DATABASE_URL") or sys.exit("Set DATABASE_URL, such as postgresql://localhost/app")


async def send_invoice(ctx: JobContext) -> None:
    """Fail, as on a bad day."""
    raise RuntimeError(ctx.job.payload["error"])


store = PgJobStore(dsn=DSN)
worker = Worker(store=store, handlers={"send_invoice": send_invoice})


async def main() -> None:
    """Let three invoices fail, and retry the two that had a timeout."""
    async with store:
        await store.migrate()
        errors = ["the provider gave a timeout", "the provider gave a timeout", "no such customer"]
        ids = [await store.enqueue("send_invoice", {"error": error}, max_attempts=1) for error in errors]
        async with worker:
            await asyncio.gather(*(store.wait_for(job_id, timeout=30) for job_id in ids), return_exceptions=True)

        operations = Operations(store, actor="ada")
        await explain(operations, ids[0])
        failed = JobFilter(status="FAILED", job_type="send_invoice", error="timeout")
        print(f"{await operations.count(failed)} invoices failed by a timeout")
        done = await operations.retry(failed)
        print(f"{done.changed} of {done.matched} were retried")
        await explain(operations, ids[0])


async def explain(operations: Operations, job_id: int) -> None:
    """Print why a job does not run."""
    for reason in await operations.explain(job_id):
        print(f"{reason.code}: {reason.text}")


if __name__ == "__main__":
    asyncio.run(main())
