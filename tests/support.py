"""What tests wait with: events of a worker, conditions of the database. Never time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from pqlite import Job, JobStatus, JobStore
from pqlite.testing import EventLog as EventLog

PATIENCE = 15.0


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


async def status_of(store: JobStore, job_id: int) -> JobStatus:
    return (await store.get(job_id)).status


async def ended(store: JobStore, job_id: int, patience: float = PATIENCE) -> Job:
    """Return the job once it is DONE, FAILED or CANCELLED."""
    final = (JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED)

    async def look() -> Job | None:
        job = await store.get(job_id)
        return job if job.status in final else None

    return await until(look, f"job {job_id} to end", patience)


async def settled(store: JobStore, job_id: int, attempts: int = 1) -> Job:
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
