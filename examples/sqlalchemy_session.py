"""The same with SQLAlchemy: a request's session enqueues, and a handler's session completes.

    pip install "sqlalchemy[asyncio]"
    export DATABASE_URL=postgresql://localhost/app
    uvicorn examples.sqlalchemy_session:app

    curl -X POST 'localhost:8000/orders?item=lamp&quantity=2'
    curl -X POST 'localhost:8000/orders?item=lamp&quantity=-1'

The second breaks a rule of the table, so neither the order nor its job is there.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import CheckConstraint
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pqlite import JobContext, PgJobStore, Worker

DSN = os.environ.get("DATABASE_URL") or sys.exit("Set DATABASE_URL, such as postgresql://localhost/app")

engine = create_async_engine(DSN.replace("postgresql://", "postgresql+asyncpg://", 1))
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    """The tables of this app."""


class Order(Base):
    """An order of a customer."""

    __tablename__ = "orders"
    __table_args__ = (CheckConstraint("quantity > 0"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    quantity: Mapped[int]
    confirmed: Mapped[bool] = mapped_column(default=False)


async def confirm_order(ctx: JobContext) -> None:
    """Confirm an order. That it is confirmed, and that this job is DONE, is one transaction."""
    async with sessions.begin() as session:
        order = await session.get_one(Order, ctx.job.payload["order_id"])
        order.confirmed = True
        await session.flush()
        await ctx.complete(conn=session, result={"item": order.item})


# strict: a connection that no transaction covers is a mistake in this app.
store = PgJobStore(dsn=DSN, strict=True)
worker = Worker(store=store, handlers={"confirm_order": confirm_order})


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Prepare the database, then run the worker for as long as the app serves."""
    async with store, engine.begin() as conn:
        await store.migrate()
        await conn.run_sync(Base.metadata.create_all)
    async with worker.lifespan(app):
        yield
    await engine.dispose()


async def session_of_request() -> AsyncIterator[AsyncSession]:
    """Yield a session in a transaction: committed when the request succeeds, rolled back when it fails."""
    async with sessions.begin() as session:
        yield session


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=201)
async def place_order(
    item: str, quantity: int, session: Annotated[AsyncSession, Depends(session_of_request, scope="function")]
) -> dict[str, int]:
    """Place an order, and enqueue its confirmation in the same transaction."""
    order = Order(item=item, quantity=quantity)
    session.add(order)
    try:
        await session.flush()
    except IntegrityError:
        raise HTTPException(422, "An order is for at least one piece.") from None
    return {"order_id": order.id, "job_id": await store.enqueue("confirm_order", {"order_id": order.id}, conn=session)}
