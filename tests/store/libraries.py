"""What users lend: one class per library, each with a table `orders` to write to beside the jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

import asyncpg
import databases
import psycopg
from piccolo.engine.postgres import PostgresEngine
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelSession
from tortoise.context import TortoiseContext
from tortoise.fields import CharField
from tortoise.models import Model
from tortoise.transactions import in_transaction

from tests.support import sqlalchemy_url

INSERT = "insert into orders (note) values ('written')"


class Order(Model):
    """Tortoise does not begin without a model."""

    note = CharField(max_length=100, primary_key=True)


class Rollback(Exception):
    """Ends a library's transaction block without a commit."""


class Lender(Protocol):
    """A transaction of one library: what it lends, and how it writes."""

    conn: Any

    async def write(self, sql: str = INSERT) -> object: ...


Transaction = AbstractAsyncContextManager[Lender]
Library = Callable[[str], Transaction]
"""Opens a transaction, which is committed at the end of the block, or rolled back if the block raises."""


class _Lender:
    def __init__(self, conn: Any, run: Callable[[Any], Any], wrap: Callable[[str], Any] = str) -> None:
        self.conn = conn
        self._run = run
        self._wrap = wrap

    async def write(self, sql: str = INSERT) -> object:
        return await self._run(self._wrap(sql))


@asynccontextmanager
async def of_asyncpg(dsn: str) -> AsyncIterator[Lender]:
    conn = await asyncpg.connect(dsn)
    try:
        async with conn.transaction():
            yield _Lender(conn, conn.execute)
    finally:
        await conn.close()


@asynccontextmanager
async def of_an_asyncpg_pool(dsn: str) -> AsyncIterator[Lender]:
    async with asyncpg.create_pool(dsn, min_size=0, max_size=1) as pool, pool.acquire() as conn:
        async with conn.transaction():
            yield _Lender(conn, conn.execute)


@asynccontextmanager
async def engine(dsn: str, driver: str, **options: Any) -> AsyncIterator[Any]:
    made = create_async_engine(sqlalchemy_url(dsn, driver), **options)
    try:
        yield made
    finally:
        await made.dispose()


@asynccontextmanager
async def of_a_session(dsn: str, driver: str, kind: type[AsyncSession] = AsyncSession) -> AsyncIterator[Lender]:
    async with engine(dsn, driver) as made, kind(made) as session, session.begin():
        yield _Lender(session, session.execute if kind is AsyncSession else session.exec, text)


@asynccontextmanager
async def of_a_scoped_session(dsn: str) -> AsyncIterator[Lender]:
    async with engine(dsn, "asyncpg") as made:
        session = async_scoped_session(async_sessionmaker(made), scopefunc=lambda: 1)
        try:
            yield _Lender(session, session.execute, text)
            await session.commit()
        finally:
            await session.remove()


@asynccontextmanager
async def of_a_sqlalchemy_connection(dsn: str, driver: str) -> AsyncIterator[Lender]:
    async with engine(dsn, driver) as made, made.begin() as conn:
        yield _Lender(conn, conn.execute, text)


@asynccontextmanager
async def of_psycopg(dsn: str) -> AsyncIterator[Lender]:
    async with await psycopg.AsyncConnection.connect(dsn, row_factory=psycopg.rows.dict_row) as conn:
        yield _Lender(conn, conn.execute)


@asynccontextmanager
async def of_psycopg_in_autocommit(dsn: str) -> AsyncIterator[Lender]:
    async with await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, cursor_factory=psycopg.AsyncRawCursor
    ) as conn:
        async with conn.transaction():
            yield _Lender(conn, conn.execute)


def credentials(dsn: str) -> dict[str, Any]:
    """Return the parts of an address, for libraries that do not read a socket's directory from one."""
    url = urlsplit(dsn)
    options = dict(parse_qsl(url.query))
    return {
        "host": options.get("host", url.hostname),
        "port": int(options.get("port", url.port or 5432)),
        "user": url.username,
        "password": url.password,
        "database": url.path[1:],
    }


@asynccontextmanager
async def of_tortoise(dsn: str) -> AsyncIterator[Lender]:
    connections = {"default": {"engine": "tortoise.backends.asyncpg", "credentials": credentials(dsn)}}
    async with TortoiseContext() as context:
        await context.init({"connections": connections, "apps": {"models": {"models": [__name__]}}})
        async with in_transaction("default") as conn:
            yield _Lender(conn, conn.execute_script)


@asynccontextmanager
async def of_piccolo(dsn: str) -> AsyncIterator[Lender]:
    made = PostgresEngine(config={"dsn": dsn}, extensions=())
    async with made.transaction() as transaction:
        yield _Lender(transaction, transaction.connection.execute)


@asynccontextmanager
async def of_databases(dsn: str) -> AsyncIterator[Lender]:
    where = credentials(dsn)
    async with databases.Database(f"postgresql:///{where['database']}", **where) as database:
        async with database.connection() as conn, conn.transaction():
            yield _Lender(conn, conn.execute)


LIBRARIES: dict[str, Library] = {
    "asyncpg": of_asyncpg,
    "asyncpg pool": of_an_asyncpg_pool,
    "AsyncSession asyncpg": lambda dsn: of_a_session(dsn, "asyncpg"),
    "AsyncSession psycopg": lambda dsn: of_a_session(dsn, "psycopg"),
    "SQLModel": lambda dsn: of_a_session(dsn, "asyncpg", SQLModelSession),
    "async_scoped_session": of_a_scoped_session,
    "AsyncConnection asyncpg": lambda dsn: of_a_sqlalchemy_connection(dsn, "asyncpg"),
    "AsyncConnection psycopg": lambda dsn: of_a_sqlalchemy_connection(dsn, "psycopg"),
    "psycopg": of_psycopg,
    "psycopg in autocommit": of_psycopg_in_autocommit,
    "Tortoise": of_tortoise,
    "Piccolo": of_piccolo,
    "databases": of_databases,
}
