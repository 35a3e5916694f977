"""A worker without a web server, for a host that only runs jobs.

    export DATABASE_URL=postgresql://localhost/app
    pqlite migrate
    pqlite worker examples.worker_only:worker       # Ctrl-C or SIGTERM stops it gracefully

    python examples/worker_only.py some text        # in another terminal: enqueue a job

An app that has `FastAPI(lifespan=worker.lifespan)` may name the same worker: run as many of either as you need.
"""

import asyncio
import hashlib
import os
import sys

from pqlite import JobContext, PgJobStore, Worker

DSN = os.environ.get("DATABASE_URL") or sys.exit("Set DATABASE_URL, such as postgresql://localhost/app")


def derive_key(ctx: JobContext) -> str:
    """Do something slow. A plain function runs in a thread, so that it may block."""
    return hashlib.scrypt(ctx.job.payload["text"].encode(), salt=b"pqlite", n=2**14, r=8, p=1).hex()


store = PgJobStore(dsn=DSN)
worker = Worker(store=store, handlers={"derive_key": derive_key}, concurrency=4)


async def main(text: str) -> None:
    """Enqueue one job, from a process that runs none."""
    async with store:
        print(await store.enqueue("derive_key", {"text": text}, timeout_seconds=60))


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:])))
