"""What became of a job that its handler completed in a transaction of its own."""

from __future__ import annotations

from pqlite.errors import NotCommitted
from pqlite.handlers import JobContext
from pqlite.job import JobStatus
from pqlite.uninterrupted import uninterrupted


async def see_completed(context: JobContext, error: BaseException | None) -> BaseException | None:
    """Mark the job DONE if a transaction of the handler's own has made it so; return how the attempt failed, if it did.

    If that cannot be told, it counts as failed. The fence refuses that outcome if the job is DONE after all.
    """
    job = context.job

    async def look() -> None:
        if await context.store.was_completed(job):
            job.status = JobStatus.DONE

    try:
        await uninterrupted(look())
    except BaseException as raised:
        error = error or raised
    if error is None and job.status is not JobStatus.DONE:
        error = NotCommitted("The handler called complete(conn=...), but that transaction was not committed.")
    return error
