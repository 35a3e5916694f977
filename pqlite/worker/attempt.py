"""One execution of one claim: its context, its task and its timers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from pqlite.handlers import JobContext
from pqlite.job import Job


class Attempt:
    """One execution of one claim."""

    __slots__ = ("context", "entered", "job", "next_claim", "started", "stuck", "task", "timer")

    def __init__(self, job: Job, context: JobContext) -> None:
        self.job = job
        self.context = context
        self.started = time.monotonic()
        self.task: asyncio.Task[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None
        """Stops it at its timeout."""
        self.stuck: asyncio.TimerHandle | None = None
        """Reports that it has not stopped."""
        self.entered = False
        """Whether its task has begun to run. A task that is cancelled before that runs nothing."""
        self.next_claim: Job | None = None
        """A later claim of the same job, given back when this attempt ends."""

    @property
    def is_current(self) -> bool:
        """Return whether this is the attempt's own task, in its event loop."""
        try:
            return asyncio.current_task() is self.task
        except RuntimeError:
            return False

    def interrupted_by(self, took: float) -> str | None:
        """Return the reason to stop if it interrupted an attempt that returned after `took` seconds, else None.

        An attempt was interrupted if it was asked to stop, unless its handler called `ctx.mark_finished` or did not
        notice the request; and if it took longer than its timeout.
        """
        reason = self.context._stop_reason
        if reason is not None and not self.context._finished:
            return reason
        timeout = self.job.timeout_seconds
        return "timeout" if timeout is not None and took > timeout else None
