"""What tests wait with: events of a worker, conditions of the database. Never time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pqlite import Job, JobStatus, PgJobStore
from pqlite.events import Event

E = TypeVar("E", bound=Event)

PATIENCE = 15.0


class EventLog:
    """An observer that remembers every event, and can be waited on."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    async def wait_for(self, kind: type[E], matches: Callable[[E], bool] = lambda _: True, *, count: int = 1) -> E:
        """Return the `count`-th event of a kind that matches, when it has come."""
        async with asyncio.timeout(PATIENCE):
            while True:
                self._news.clear()
                found = [event for event in self.of(kind) if matches(event)]
                if len(found) >= count:
                    return found[count - 1]
                await self._news.wait()


async def until(condition: Callable[[], Awaitable[Any] | Any], what: str = "", patience: float = PATIENCE) -> Any:
    """Return the condition's value once it is true."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"still waiting after {patience} s for {what or condition}")
        await asyncio.sleep(0.02)


async def status_of(store: PgJobStore, job_id: int) -> JobStatus:
    return (await store.get(job_id)).status


async def ended(store: PgJobStore, job_id: int, patience: float = PATIENCE) -> Job:
    """Return the job once it is DONE, FAILED or CANCELLED."""
    final = (JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED)

    async def look() -> Job | None:
        job = await store.get(job_id)
        return job if job.status in final else None

    return await until(look, f"job {job_id} to end", patience)


async def settled(store: PgJobStore, job_id: int, attempts: int = 1) -> Job:
    """Return the job once it is not RUNNING and has had this many attempts."""

    async def look() -> Job | None:
        job = await store.get(job_id)
        return job if job.status is not JobStatus.RUNNING and job.attempts >= attempts else None

    return await until(look, f"job {job_id} to settle")


def sqlalchemy_url(dsn: str, driver: str) -> str:
    """Return an address as SQLAlchemy wants it."""
    parts = urlsplit(dsn)
    user, _, hosts = parts.netloc.rpartition("@")
    if "," in hosts:
        query = "&".join(f"host={host}" for host in hosts.split(","))
        parts = parts._replace(netloc=f"{user}@", query=query)
    if driver == "asyncpg":
        parts = parts._replace(query=parts.query.replace("sslmode=", "ssl="))
    return parts._replace(scheme=f"postgresql+{driver}").geturl()
