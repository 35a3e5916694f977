"""Observe events: count outcomes, and raise an alarm when a job has failed for good.

    export DATABASE_URL=postgresql://localhost/app
    python examples/listening.py

Observers are plain functions, each in a thread of its own, or `async def`. However slow they are, and whatever they
raise, no job waits for them or fails. When the worker has stopped, they have received all events.
"""

import asyncio
import os
import sys
from collections import Counter

from pqlite import Event, Fail, JobContext, PgJobStore, Worker
from pqlite.events import JobsEnqueued, JobSettled
from pqlite.outcome import Verb

DSN = os.environ.get("DATABASE_URL") or sys.exit("Set DATABASE_URL, such as postgresql://localhost/app")

counts: Counter[str] = Counter()


def count(event: Event) -> None:
    """Count, as metrics would."""
    match event:
        case JobsEnqueued(jobs=jobs):
            counts["enqueued"] += len(jobs)
        case JobSettled(outcome=outcome):
            counts[f"{outcome.job.job_type} {outcome.verb}"] += 1


async def alert(event: Event) -> None:
    """Raise an alarm, slowly."""
    if isinstance(event, JobSettled) and event.outcome.verb is Verb.FAILED:
        await asyncio.sleep(0.1)
        print(f"job {event.outcome.job.id} is lost: {event.outcome.error}")


async def halve(ctx: JobContext) -> int:
    """Halve an even number."""
    number: int = ctx.job.payload
    if number % 2:
        raise Fail(f"{number} is odd")
    return number // 2


store = PgJobStore(dsn=DSN, observers=[count])
worker = Worker(store, handlers={"halve": halve}, observers=[count, alert])


async def main() -> None:
    """Run four jobs, one of which cannot be done."""
    async with store:
        await store.migrate()
        await store.enqueue_many({"job_type": "halve", "payload": number} for number in (2, 4, 7, 8))
        await worker.run_once()
    print(dict(sorted(counts.items())))


if __name__ == "__main__":
    asyncio.run(main())
