"""An app that serves metrics for Prometheus at /metrics.

    export DATABASE_URL=postgresql://localhost/app
    uvicorn examples.metrics:app
    curl localhost:8000/metrics

The counters are of this process's worker; the gauges are read from the database, at most once in 5 seconds. Protect the
route as you protect others, or serve it where only Prometheus can reach it.
"""

import os
import sys

from starlette.applications import Starlette

from pqlite import JobContext, PgJobStore, Worker
from pqlite.operations import Metrics, Operations

DSN = os.environ.get("DATABASE_URL") or sys.exit("Set DATABASE_URL, such as postgresql://localhost/app")


async def resize(ctx: JobContext) -> None:
    """Do the work."""


store = PgJobStore(dsn=DSN)
metrics = Metrics(Operations(store))
worker = Worker(store=store, handlers={"resize": resize}, observers=[metrics])
app = Starlette(routes=[metrics.route()], lifespan=worker.lifespan)
