"""Jobs with types: declared once, checked by the type checker, when they are enqueued, and before they run.

    export DATABASE_URL=postgresql://localhost/app
    pqlite migrate
    uvicorn examples.typed_jobs:app

    curl localhost:8000/users -H 'content-type: application/json' -d '{"name": "Ada", "email": "ada@example.org"}'
    curl localhost:8000/receipts/1              # waits for that job, and returns its result
    curl -X POST 'localhost:8000/users/1/reminder?hours=24'

The mailer is a dependency, which a test replaces while the app and its worker run:

    with handlers.override({get_mailer: lambda: fake}):
        await client.post("/users", json=...)
"""

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from pqlite import (
    Depends,
    Exponential,
    Handlers,
    Hooks,
    JobContext,
    JobFailed,
    JobNotFound,
    JobTimeoutError,
    PgJobStore,
    Worker,
)

DSN = os.environ.get("DATABASE_URL") or sys.exit("Set DATABASE_URL, such as postgresql://localhost/app")

handlers = Handlers()


class NewUser(BaseModel):
    """What a request brings."""

    name: str
    email: str


@dataclass
class Receipt:
    """What a mail leaves behind: it is kept as the job's result."""

    to: str
    sent_at: datetime


class Mailer:
    """Pretends to send mail."""

    async def send(self, to: str, text: str) -> Receipt:
        """Send one mail."""
        print(f"to {to}: {text}")
        return Receipt(to, datetime.now(UTC))


async def get_mailer() -> AsyncIterator[Mailer]:
    """Yield a mailer for one attempt; a real one would log in here, and out after the `yield`."""
    yield Mailer()


def get_pool(ctx: JobContext) -> asyncpg.Pool:
    """Return the pool that the worker's resources hold, with its type."""
    pool: asyncpg.Pool = ctx.resources["pool"]
    return pool


@handlers.job("send_welcome", queue="mail", max_attempts=8, timeout=30, backoff=Exponential(base=1), retry_on=OSError)
async def send_welcome(user: NewUser, mailer: Mailer = Depends(get_mailer)) -> Receipt:
    """Welcome a user. The payload is the user, the mailer no part of it."""
    return await mailer.send(user.email, f"Welcome, {user.name}!")


def days_to_duration(old: dict[str, Any]) -> dict[str, Any]:
    """Make a payload of version 1, which counted days, one of version 2."""
    return {"user_id": old["user_id"], "after": f"P{old['days']}D"}


# Once it was called "nag". Jobs that were enqueued then are run as well.
@handlers.job("send_reminder", queue="mail", aliases=["nag"], version=2, upgrade={1: days_to_duration})
async def send_reminder(
    ctx: JobContext,
    user_id: int,
    after: timedelta,
    *,
    mailer: Mailer = Depends(get_mailer),
    pool: asyncpg.Pool = Depends(get_pool),
) -> Receipt | None:
    """Remind a user, if there still is one."""
    email = await pool.fetchval("select email from users where id = $1", user_id)
    if email is None:
        ctx.log.info("User %s has left.", user_id)
        return None
    return await mailer.send(email, f"You asked for this {after} ago.")


@asynccontextmanager
async def resources() -> AsyncIterator[Mapping[str, asyncpg.Pool]]:
    """Make what attempts share, for as long as the worker runs."""
    async with asyncpg.create_pool(DSN, min_size=0) as pool:
        yield {"pool": pool}


async def announce(ctx: JobContext) -> None:
    """Run before each attempt."""
    ctx.log.info("Attempt %s of %s.", ctx.attempt, ctx.job.max_attempts)


store = PgJobStore(dsn=DSN)
worker = Worker(store=store, handlers=handlers, resources=resources, hooks=Hooks(before_job=announce))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Prepare the database, then run the worker for as long as the app serves."""
    async with store, store.connection() as conn:
        await store.migrate()
        await conn.execute("create table if not exists users (id serial primary key, name text, email text)")
    async with worker.lifespan(app):
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/users", status_code=201)
async def create_user(user: NewUser) -> dict[str, int]:
    """Add a user and their welcome, in one transaction."""
    async with store.transaction() as conn:
        user_id = await conn.fetchval(
            "insert into users (name, email) values ($1, $2) returning id", user.name, user.email
        )
        return {"user_id": user_id, "job_id": await store.enqueue(send_welcome.new(user), conn=conn)}


@app.get("/receipts/{job_id}")
async def receipt(job_id: int, seconds: float = 10) -> Receipt:
    """Wait for a welcome to be sent. The id that came by URL learns its result's type from the handler."""
    try:
        outcome = await store.wait_for(send_welcome.job_id(job_id), timeout=seconds)
    except JobNotFound as error:
        raise HTTPException(404, str(error)) from None
    except JobTimeoutError as error:
        raise HTTPException(504, str(error)) from None
    except JobFailed as error:
        raise HTTPException(502, str(error)) from None
    return outcome.result


@app.post("/users/{user_id}/reminder", status_code=202)
async def remind(user_id: int, hours: float) -> dict[str, int]:
    """Remind a user later. What is said here wins over what the declaration says."""
    if hours < 0:
        raise HTTPException(422, "The past cannot be reminded.")
    after = timedelta(hours=hours)
    job_id = await store.enqueue(send_reminder.new(user_id, after), run_after=after, dedupe_key=f"reminder:{user_id}")
    return {"job_id": job_id}
