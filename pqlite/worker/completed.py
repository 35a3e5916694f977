"""Checks whether the transaction in which a handler completed its job was committed."""

from __future__ import annotations

from pqlite.errors import NotCommitted
from pqlite.handlers import JobContext
from pqlite.job import JobStatus
from pqlite.uninterrupted import uninterrupted


async def check_completed(context: JobContext, error: BaseException | None) -> BaseException | None:
    """Mark the job DONE if the handler's transaction has completed it; return the error of the attempt, if any.

    If the check fails, the attempt counts as failed. The fence refuses that outcome if the job is DONE after all.
    """
    job = context.job

    async def check() -> None:
        if await context.store.was_completed(job):
            job.status = JobStatus.DONE

    try:
        await uninterrupted(check())
    except BaseException as raised:
        error = error or raised
    if error is None and job.status is not JobStatus.DONE:
        error = NotCommitted("The handler called complete(conn=...), but that transaction was not committed.")
    return error
