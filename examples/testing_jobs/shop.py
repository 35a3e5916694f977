"""A shop to be tested: it welcomes new customers and charges for orders, each in a job.

The app is made by a function, so that a test can give it another store; the mailer is a dependency, which a test
replaces. test_shop.py has the tests.
"""

from datetime import timedelta
from typing import Any

from fastapi import FastAPI

from pqlite import Depends, Handlers, JobContext, Worker

TABLES = (
    "create table orders (id bigint generated always as identity primary key, item text, charged boolean default false)"
)

handlers = Handlers()


class Mailer:
    """Sends mail; a test gives the handlers one that only remembers."""

    async def send(self, address: str, text: str) -> None:
        """Send a mail."""


def get_mailer() -> Mailer:
    """Return the mailer of an attempt."""
    return Mailer()


@handlers.job("remind")
async def remind(address: str, mailer: Mailer = Depends(get_mailer)) -> None:
    """Ask a customer whether they are still there."""
    await mailer.send(address, "Still there?")


@handlers.job("welcome")
async def welcome(ctx: JobContext, address: str, mailer: Mailer = Depends(get_mailer)) -> dict[str, str]:
    """Welcome a customer, and remind them in a week."""
    await mailer.send(address, "Welcome!")
    await ctx.store.enqueue(remind.new(address), run_after=timedelta(days=7))
    return {"sent_to": address}


@handlers.job("pack")
async def pack(order_id: int) -> None:
    """Pack an order."""


@handlers.job("charge")
async def charge(ctx: JobContext, order_id: int) -> None:
    """Charge for an order, and have it packed: both, or neither."""
    async with ctx.complete() as conn:
        await conn.execute("update orders set charged = true where id = $1", order_id)
        await ctx.store.enqueue(pack.new(order_id), run_after=timedelta(hours=1), conn=conn)


def make_app(store: Any, worker: Worker | None = None) -> FastAPI:
    """Return the app; without a worker it only enqueues."""
    app = FastAPI(lifespan=None if worker is None else worker.lifespan)

    @app.post("/customers", status_code=202)
    async def sign_up(address: str) -> dict[str, int]:
        return {"job_id": await store.enqueue(welcome.new(address), dedupe_key=f"welcome:{address}")}

    @app.post("/orders", status_code=202)
    async def order(item: str) -> dict[str, int]:
        async with store.transaction() as tx:
            order_id = await tx.fetchval("insert into orders (item) values ($1) returning id", item)
            return {"job_id": await store.enqueue(charge.new(order_id), conn=tx)}

    return app
