"""The verbs of JobStore that pause queues, job types and keys."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from pqlite.errors import InvalidJob
from pqlite.events import Paused, Resumed
from pqlite.events.announcer import Announcer
from pqlite.store.validation import aware, name

Scope: TypeAlias = Literal["queue", "job_type", "key"]
LENGTHS: dict[Scope, int] = {"queue": 200, "job_type": 200, "key": 1024}


@dataclass(frozen=True, slots=True)
class Pause:
    """A queue, a job type or a concurrency key of which no job is started."""

    scope: Scope
    name: str
    reason: str | None
    paused_by: str | None
    paused_at: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class QueueStats:
    """What waits, runs and has ended in the last hour, for one queue and job type; a row of pqlite.queue_stats."""

    queue: str
    job_type: str
    due: int
    later: int
    suspects: int
    blocked: int
    running: int
    done_last_hour: int
    failed_last_hour: int
    cancelled_last_hour: int
    oldest_due_seconds: float | None


class PauseVerbs:
    """The verbs of JobStore that pause and resume."""

    events: Announcer

    async def pause(
        self,
        *,
        queue: str | None = None,
        job_type: str | None = None,
        key: str | None = None,
        reason: str | None = None,
        by: str | None = None,
        until: datetime | timedelta | None = None,
    ) -> None:
        """Start no more jobs of a queue, of a job type, or with a concurrency key, in no process, until `resume`.

        The next claim of every worker obeys it. Workers give jobs back that they have claimed but not started, as soon
        as they are notified; behind a pooler in transaction mode these few may still start. Jobs that run go on. Jobs
        can be enqueued and become due. A pause survives restarts. The call can be repeated, and replaces `reason`, `by`
        and `until`.

            await store.pause(queue="mail", reason="the provider is down", by="ada", until=timedelta(hours=1))

        Args:
            queue, job_type, key: exactly one of them. It need not exist.
            reason, by: kept with the pause, for other people.
            until: when the pause ends by itself, or after how long; workers notice that when they poll next.

        Raises:
            InvalidJob: not exactly one name is given, or an argument is invalid.
            ConfigurationError: a MemoryJobStore has no pauses.
        """
        scope, checked = _scope(queue, job_type, key)
        for what, text in (("reason", reason), ("by", by)):
            if text is not None and not isinstance(text, str):
                raise InvalidJob(f"{what} must be text, not {text!r}")
        ends = None
        if until is not None:
            ends = aware("until", datetime.now().astimezone() + until if isinstance(until, timedelta) else until)
        await self._pause(scope, checked, reason, by, ends)
        if self.events.wanted:
            self.events(Paused(scope, checked, reason, by, ends))

    async def resume(self, *, queue: str | None = None, job_type: str | None = None, key: str | None = None) -> bool:
        """End a pause; return whether there was one. Workers look for the jobs at once.

        Raises:
            InvalidJob: not exactly one name is given. ConfigurationError: a MemoryJobStore has no pauses.
        """
        scope, checked = _scope(queue, job_type, key)
        found = await self._resume(scope, checked)
        if found and self.events.wanted:
            self.events(Resumed(scope, checked))
        return found

    async def pauses(self) -> list[Pause]:
        """Return the pauses that are in force, by scope and name.

        Raises:
            ConfigurationError: a MemoryJobStore has no pauses.
        """
        return [Pause(*row) for row in await self._pauses()]

    # The acts of a backend

    @abstractmethod
    async def _pause(self, scope: Scope, name: str, reason: str | None, by: str | None, until: datetime | None) -> None:
        """Pause it, or change its pause."""

    @abstractmethod
    async def _resume(self, scope: Scope, name: str) -> bool:
        """End a pause; return whether there was one."""

    @abstractmethod
    async def _pauses(self) -> Sequence[Any]:
        """Return the fields of all pauses in force."""


def _scope(queue: str | None, job_type: str | None, key: str | None) -> tuple[Scope, str]:
    given: dict[Scope, str | None] = {"queue": queue, "job_type": job_type, "key": key}
    named: list[tuple[Scope, str]] = [(scope, value) for scope, value in given.items() if value is not None]
    if len(named) != 1:
        raise InvalidJob("name exactly one of queue=, job_type= and key=")
    scope, value = named[0]
    return scope, name(scope, value, LENGTHS[scope])
