"""Which job runs here: for what has no context at hand, such as a filter of the log."""

from __future__ import annotations

from contextvars import ContextVar

from pqlite.job import Job

job: ContextVar[Job | None] = ContextVar("pqlite_job", default=None)
"""The job whose attempt runs here, in the tasks and threads that its handler started as well; None elsewhere.

It is set for attempts that start after somebody has said that it is `wanted`.
"""

wanted = False
"""Whether attempts set `job`: setting it costs some, and most programs never ask."""


def want() -> None:
    """Let attempts set `job` from now on."""
    global wanted
    wanted = True
