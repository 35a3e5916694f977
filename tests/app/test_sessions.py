"""An app whose requests write and enqueue in SQLAlchemy sessions, and end in every way that requests end."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Annotated

import asyncpg
import httpx
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from pqlite import PgJobStore
from tests.support import sqlalchemy_url

REQUESTS = 300
AT_ONCE = 16
ENDS = ("commit", "roll back", "fail in flush", "recover in a savepoint", "raise", "enqueue first", "enqueue many")


class Broken(Exception):
    """A request that ends in an error."""


def app_of(store: PgJobStore, sessions: async_sessionmaker[AsyncSession]) -> FastAPI:
    app = FastAPI()

    async def session_of_request() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            yield session

    async def write(session: AsyncSession, number: int) -> None:
        await session.execute(text("insert into orders (id) values (:id)"), {"id": number})

    @app.post("/{number}")
    async def place(number: int, end: str, session: Annotated[AsyncSession, Depends(session_of_request)]) -> None:
        if end == "enqueue first":
            await store.enqueue("t", {"order": number}, conn=session, strict=True)
            await write(session, number)
            await session.rollback() if number % 2 else await session.commit()
            return
        await write(session, number)
        if end == "enqueue many":
            await store.enqueue_many([{"job_type": "t", "payload": {"order": number}}], conn=session)
        elif end == "recover in a savepoint":
            try:
                async with session.begin_nested():
                    await store.enqueue("t", {"order": -number}, conn=session)
                    await write(session, number)  # the key is taken
            except IntegrityError:
                await store.enqueue("t", {"order": number}, conn=session)
        else:
            await store.enqueue("t", {"order": number}, conn=session, dedupe_key=f"order {number}")
        if end == "fail in flush":
            await write(session, number)
        elif end == "raise":
            raise Broken
        elif end == "roll back":
            await session.rollback()
        else:
            await session.commit()

    return app


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_jobs_are_those_of_the_committed_rows_exactly(
    dsn: str, conn: asyncpg.Connection, store: PgJobStore, driver: str
) -> None:
    chance = random.Random(driver)
    await conn.execute("create table orders (id int primary key)")
    engine = create_async_engine(sqlalchemy_url(dsn, driver), pool_size=AT_ONCE)
    app = app_of(store, async_sessionmaker(engine))
    turns = asyncio.Semaphore(AT_ONCE)

    async def request(number: int) -> int:
        async with turns:
            answer = await client.post(f"/{number}", params={"end": chance.choice(ENDS)})
            return answer.status_code

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        answers = await asyncio.gather(*(request(number) for number in range(1, REQUESTS + 1)))
    await engine.dispose()

    orders = {row[0] for row in await conn.fetch("select id from orders")}
    jobs = [row[0] for row in await conn.fetch("select (payload->>'order')::int from pqlite.jobs")]
    assert sorted(jobs) == sorted(orders)
    assert 0.4 * REQUESTS < len(orders) < 0.7 * REQUESTS
    assert set(answers) == {200, 500}
