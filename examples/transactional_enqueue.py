"""An order and the job that confirms it, in one transaction: both exist, or neither does.

    export DATABASE_URL=postgresql://localhost/app
    uvicorn examples.transactional_enqueue:app

    curl -X POST 'localhost:8000/orders?item=lamp&quantity=2'
    curl -X POST 'localhost:8000/orders?item=lamp&quantity=200'

The second is refused after its order and its job were written: the rollback takes both.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException

from pqlite import JobContext, PgJobStore, Worker

DSN = os.environ.get("DATABASE_URL") or sys.exit("Set DATABASE_URL, such as postgresql://localhost/app")

ORDERS = """
create table if not exists orders (
  id bigint generated always as identity primary key,
  item text not null, quantity int not null, confirmed boolean not null default false
)
"""


async def confirm_order(ctx: JobContext) -> None:
    """Write to the customer. The order is there: this job could not be seen before it was committed."""
    async with ctx.complete() as conn:
        await conn.execute("update orders set confirmed = true where id = $1", ctx.job.payload["order_id"])


store = PgJobStore(dsn=DSN)
worker = Worker(store=store, handlers={"confirm_order": confirm_order})


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Prepare the database, then run the worker for as long as the app serves."""
    async with store:
        await store.migrate()
        async with store.connection() as conn:
            await conn.execute(ORDERS)
        async with worker.lifespan(app):
            yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=201)
async def place_order(item: str, quantity: int) -> dict[str, int]:
    """Place an order; the exception rolls back what was written before it, the job included."""
    async with store.transaction() as tx:
        insert = "insert into orders (item, quantity) values ($1, $2) returning id"
        order_id = await tx.fetchval(insert, item, quantity)
        job_id = await store.enqueue("confirm_order", {"order_id": order_id}, conn=tx)
        if quantity > 100:
            raise HTTPException(409, f"There are not {quantity} of {item!r} in stock.")
    return {"order_id": order_id, "job_id": job_id}
