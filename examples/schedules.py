"""Jobs on a schedule: by the clock of a place, and every so often.

    export DATABASE_URL=postgresql://localhost/app
    python examples/schedules.py

Every worker fires them, and each slot fires once. This one stops after three heartbeats.
"""

import asyncio
import os
import sys
from datetime import timedelta

from pqlite import Handlers, JobContext, PgJobStore, Worker

DSN = os.environ.get("DATABASE_URL") or sys.exit("Set DATABASE_URL, such as postgresql://localhost/app")
handlers = Handlers()
beats = 0


@handlers.cron("0 3 * * *", timezone="Europe/Berlin")
@handlers.cron("0 7 * * mon", timezone="Europe/Berlin", name="weekly_report", payload={"days": 7})
@handlers.job("report", max_attempts=3)
async def report(ctx: JobContext, days: int = 1) -> None:
    """Report on the days before the slot, however late it runs."""
    print(f"report of {days} days until {ctx.scheduled_for}")


@handlers.every(timedelta(seconds=1), overlap="allow", missed="skip")
@handlers.job("heartbeat")
async def heartbeat(ctx: JobContext) -> None:
    """Say that it beats; the third time, stop."""
    global beats
    beats += 1
    print(f"heartbeat {beats} for {ctx.scheduled_for:%H:%M:%S}")
    if beats == 3:
        worker.begin_shutdown()


store = PgJobStore(dsn=DSN)
worker = Worker(store=store, handlers=handlers)


async def main() -> None:
    """Run until the third heartbeat; then say what is planned."""
    async with store:
        await store.migrate()
        await worker.run()
        await store.pause_schedule("heartbeat")
        for schedule in await store.schedules():
            print(f"{schedule.name}: next at {schedule.next_at}")


if __name__ == "__main__":
    asyncio.run(main())
