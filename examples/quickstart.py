"""A FastAPI app with a job queue in it.

    export DATABASE_URL=postgresql://localhost/app
    pqlite migrate
    uvicorn examples.quickstart:app

    curl -X POST localhost:8000/conversations/7/summary
    curl localhost:8000/jobs/1

The same app serves without running jobs if WORKER_ENABLED=false is set: then others run them.
"""

import os
import sys

from fastapi import FastAPI, HTTPException

from pqlite import Job, JobContext, JobNotFound, PgJobStore, Worker

DSN = os.environ.get("DATABASE_URL") or sys.exit("Set DATABASE_URL, such as postgresql://localhost/app")


async def summarize(ctx: JobContext) -> dict[str, str]:
    """Run one job. What a handler returns is kept with the job, what it raises is a reason to try again."""
    return {"summary": f"Conversation {ctx.job.payload['conversation_id']}: they agreed."}


store = PgJobStore(dsn=DSN)
worker = Worker(store=store, handlers={"summarize": summarize})
app = FastAPI(lifespan=worker.lifespan)


@app.post("/conversations/{conversation_id}/summary", status_code=202)
async def request_summary(conversation_id: int) -> dict[str, int]:
    """Answer at once with a job's id; while that job waits or runs, asking again gives the same id."""
    key = f"summarize:conversation:{conversation_id}"
    return {"job_id": await store.enqueue("summarize", {"conversation_id": conversation_id}, dedupe_key=key)}


@app.get("/jobs/{job_id}")
async def show_job(job_id: int) -> Job:
    """Return a job, with its status and result."""
    try:
        return await store.get(job_id)
    except JobNotFound as error:
        raise HTTPException(404, str(error)) from error
