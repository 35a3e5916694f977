"""The interface of a queue that is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any] | asyncpg.pool.PoolConnectionProxy[Any]

JOB_TYPE = "noop"
Payload = dict[str, int]


@dataclass(frozen=True, slots=True)
class Load:
    """The jobs that wait: how many, spread over so many job types, priorities and queues; each has its number in the
    payload, as `i`, beside what is said here.
    """

    jobs: int
    job_types: int = 1
    priorities: int = 1
    queues: int = 1
    payload: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker process is to do, until `stop` is set.

    `started` is to be called by each handler, first of all, with the job's payload; `ready` once the worker is up.
    `number` tells the processes of one measurement apart. `keep` says whether finished rows stay. With `wakes`, jobs
    come one by one and their latency counts.
    """

    dsn: str
    started: Callable[[Payload], object]
    ready: Callable[[], object]
    stop: asyncio.Event
    number: int = 0
    concurrency: int | None = None
    keep: bool = True
    wakes: bool = False
    job_types: Sequence[str] = (JOB_TYPE,)


class Producer(Protocol):
    """Enqueues jobs whose handler does nothing."""

    async def enqueue(self, payload: Payload, *, caller: int = 0) -> None:
        """Enqueue one job, for one of several callers at once; return when it is committed."""
        ...

    async def enqueue_many(self, payloads: Sequence[Payload]) -> None:
        """Enqueue many, the fastest way there is; return when they are committed."""
        ...


class Contender(Protocol):
    """A queue that can be measured. The first methods run in the measuring process, the last two in a child."""

    name: str
    schema: str
    most_jobs: int
    """More jobs than these would take it minutes to work off."""

    async def install(self, conn: Connection, dsn: str) -> None:
        """Create tables and functions; the schema exists and is empty."""
        ...

    async def clear(self, conn: Connection) -> None:
        """Delete all jobs, and whatever dead workers left."""
        ...

    async def fill(self, conn: Connection, dsn: str, load: Load) -> None:
        """Make jobs wait, whichever way is fastest: this is not measured."""
        ...

    async def settled(self, conn: Connection) -> bool:
        """Return whether the database shows no job that waits or runs."""
        ...

    def producer(self, dsn: str, callers: int = 1, *, wakes: bool = False) -> AbstractAsyncContextManager[Producer]:
        """Return a producer for so many callers at once; with `wakes`, of jobs that a sleeping worker waits for."""
        ...

    async def work(self, work: Work) -> None:
        """Run a worker until `work.stop` is set."""
        ...


def job_types(load: Load) -> list[str]:
    """Return the names of the job types of a load."""
    return [JOB_TYPE if number == 0 else f"{JOB_TYPE}{number}" for number in range(load.job_types)]
