"""Adds the running job's fields to every log record of its handler, including those of libraries."""

from __future__ import annotations

import logging

from pqlite.job import current_job


class JobFields(logging.Filter):
    """Adds `job_id`, `job_type` and `attempt` to records; all are None outside of an attempt.

    Add it to a handler of the log, not to a logger (whose filters do not see its children's records):

        handler = logging.StreamHandler()
        handler.addFilter(JobFields())
        handler.setFormatter(logging.Formatter("%(levelname)s [job %(job_id)s] %(message)s"))

    A record that has a field already, such as one of `ctx.log`, keeps it. Tasks and threads that a handler starts
    belong to its attempt if they inherit its context, as asyncio's tasks and `to_thread` do.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; let every record pass."""
        job = current_job.get()
        fields = record.__dict__
        fields.setdefault("job_id", None if job is None else job.id)
        fields.setdefault("job_type", None if job is None else job.job_type)
        fields.setdefault("attempt", None if job is None else job.attempts)
        return True
