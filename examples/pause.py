"""A queue is paused while its provider is down, and resumed later.

    export DATABASE_URL=postgresql://localhost/app
    python examples/pause.py

A pause is a row: it holds for the workers of all processes, and survives restarts. From a shell: `pqlite queues pause
mail --reason "the provider is down"`.
"""

import asyncio
import os
import sys
from datetime import timedelta

from pqlite import JobContext, PgJobStore, Snooze, Worker

DSN = os.environ.get("DATABASE_URL") or sys.exit("Set DATABASE_URL, such as postgresql://localhost/app")


class Provider:
    """A mail provider that is down at first."""

    def __init__(self) -> None:
        self.up = False

    async def send(self, to: str) -> None:
        """Send a mail."""
        if not self.up:
            raise ConnectionError("the provider is down")


provider = Provider()
noticed = asyncio.Event()


async def send_mail(ctx: JobContext) -> Snooze | None:
    """Send a mail. If the provider is down, pause the queue, so that the other mails need not find that out."""
    try:
        await provider.send(ctx.job.payload["to"])
    except ConnectionError as error:
        await ctx.store.pause(queue="mail", reason=str(error), by=ctx.worker_id, until=timedelta(minutes=10))
        noticed.set()
        return Snooze(0)  # no attempt is counted
    return None


store = PgJobStore(dsn=DSN)
worker = Worker(store=store, handlers={"send_mail": send_mail}, concurrency=1)


async def main() -> None:
    """Send three mails; the first one finds that the provider is down."""
    async with store:
        await store.migrate()
        ids = [await store.enqueue("send_mail", {"to": n}, queue="mail") for n in range(3)]
        async with worker:
            await noticed.wait()
            for pause in await store.pauses():
                print(f"{pause.scope} {pause.name!r} is paused: {pause.reason}")
            provider.up = True
            await store.resume(queue="mail")
            outcomes = await store.wait_for_all(ids)
            print(f"{len(outcomes)} mails were sent after it was resumed")


if __name__ == "__main__":
    asyncio.run(main())
