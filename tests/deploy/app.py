"""One process of the app: `uvicorn tests.deploy.app:app`, or `pqlite worker tests.deploy.app:worker` without the web.

The environment says which release it is (RELEASE: the module's name), and what it is called (LABEL).
"""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from pqlite import CallNext, JobContext, PgJobStore, Worker
from tests.faults.ledger import Ledger

ledger = Ledger(Path(os.environ["LEDGER"]), os.environ["LABEL"])


async def noted(ctx: JobContext, call_next: CallNext) -> Any:
    """Write every run into the ledger, whatever the database says of it."""
    facts = {"job": ctx.job.id, "claims": ctx.job.claims, "holder": ctx.job.locked_by}
    ledger.note("start", **facts)
    try:
        result = await call_next(ctx)
    except BaseException as error:
        ledger.note("end", **facts, more={"error": repr(error)})
        raise
    ledger.note("end", **facts)
    return result


release = import_module(os.environ["RELEASE"])
store = PgJobStore(dsn=os.environ["DSN"])
worker = Worker(
    store=store,
    handlers=release.handlers,
    worker_id=os.environ["LABEL"],
    observers=[ledger],
    middleware=[noted],
)
app = FastAPI(lifespan=worker.lifespan)


@app.post("/orders/{number}")
async def order(number: int, export_seconds: float) -> list[int]:
    async with store.transaction() as conn:
        return [await store.enqueue(job, conn=conn) for job in release.jobs(number, export_seconds=export_seconds)]


@app.get("/health")
async def health() -> dict[str, str | None]:
    return {"trouble": worker.trouble()}
