"""The app that test_servers.py serves: `uvicorn tests.app.served:app`, with DSN in the environment."""

import asyncio
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from pqlite import JobContext, PgJobStore, Worker


async def sleep(ctx: JobContext) -> str:
    await asyncio.sleep(ctx.job.payload["seconds"])
    return "slept"


store = PgJobStore(dsn=os.environ["DSN"])
worker = Worker(store=store, handlers={"sleep": sleep}, shutdown_grace=0.5, shutdown_timeout=5)
app = FastAPI(lifespan=worker.lifespan)


@app.post("/sleep/{seconds}")
async def start(seconds: float) -> dict[str, int]:
    return {"job_id": await store.enqueue("sleep", {"seconds": seconds})}


@app.get("/health")
async def health() -> dict[str, str | None]:
    return {"trouble": worker.trouble()}


@app.get("/stream")
async def stream(polite: bool = True) -> StreamingResponse:
    async def events() -> AsyncIterator[bytes]:
        yield b"data: begun\n\n"
        if polite:
            await worker.wait_stopping()
        else:
            await asyncio.sleep(600)
        yield b"data: ended\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
