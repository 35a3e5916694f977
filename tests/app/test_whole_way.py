"""From a request to a settled job, through a real app and a real database."""

from typing import Any

import httpx
from fastapi import FastAPI

from pqlite import JobContext, JobStatus, PgJobStore, Worker
from tests.support import ended


async def test_a_job_enqueued_by_a_request_runs_in_the_lifespan_worker(dsn: str) -> None:
    async def summarize(ctx: JobContext) -> dict[str, Any]:
        await ctx.store.enqueue("embed", {"of": ctx.job.id})
        return {"summary_of": ctx.job.payload["conversation_id"]}

    def embed(ctx: JobContext) -> list[int]:
        return [ctx.job.payload["of"]]

    store = PgJobStore(dsn=dsn)
    worker = Worker(store=store, handlers={"summarize": summarize, "embed": embed})
    app = FastAPI(lifespan=worker.lifespan)

    @app.post("/summarize/{conversation_id}")
    async def create_summary(conversation_id: int) -> dict[str, int]:
        key = f"summarize:conv:{conversation_id}"
        return {"job_id": await store.enqueue("summarize", {"conversation_id": conversation_id}, dedupe_key=key)}

    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client,
    ):
        job_id = (await client.post("/summarize/7")).json()["job_id"]
        job = await ended(store, job_id)
        follow_up = await ended(store, job_id + 1)

    assert job.status is JobStatus.DONE
    assert job.result == {"summary_of": 7}
    assert job.attempts == 1
    assert follow_up.result == [job_id]
