"""A shop to be tested: it welcomes new customers and charges for orders, each in a job.

The app is made by a function, so that a test can give it another store. test_shop.py has the tests.
"""

from datetime import timedelta
from typing import Any

from fastapi import FastAPI

from pqlite import Handler, JobContext, Worker

TABLES = (
    "create table orders (id bigint generated always as identity primary key, item text, charged boolean default false)"
)


class Mailer:
    """Sends mail; a test gives the handlers one that only remembers."""

    async def send(self, address: str, text: str) -> None:
        """Send a mail."""


def make_handlers(mailer: Mailer) -> dict[str, Handler]:
    """Return the shop's handlers by job type."""

    async def welcome(ctx: JobContext) -> dict[str, str]:
        address = ctx.job.payload["address"]
        await mailer.send(address, "Welcome!")
        await ctx.store.enqueue("remind", {"address": address}, run_after=timedelta(days=7))
        return {"sent_to": address}

    async def remind(ctx: JobContext) -> None:
        await mailer.send(ctx.job.payload["address"], "Still there?")

    async def charge(ctx: JobContext) -> None:
        async with ctx.complete() as conn:
            await conn.execute("update orders set charged = true where id = $1", ctx.job.payload["order_id"])
            await ctx.store.enqueue("pack", {"order_id": ctx.job.payload["order_id"]}, conn=conn)

    return {"welcome": welcome, "remind": remind, "charge": charge}


def make_app(store: Any, worker: Worker | None = None) -> FastAPI:
    """Return the app; without a worker it only enqueues."""
    app = FastAPI(lifespan=None if worker is None else worker.lifespan)

    @app.post("/customers", status_code=202)
    async def sign_up(address: str) -> dict[str, int]:
        return {"job_id": await store.enqueue("welcome", {"address": address}, dedupe_key=f"welcome:{address}")}

    @app.post("/orders", status_code=202)
    async def order(item: str) -> dict[str, int]:
        async with store.transaction() as tx:
            order_id = await tx.fetchval("insert into orders (item) values ($1) returning id", item)
            return {"job_id": await store.enqueue("charge", {"order_id": order_id}, conn=tx)}

    return app
