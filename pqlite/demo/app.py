"""The web app: a page that shows the queue at work, and an endpoint that gives it more to do."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, HTTPException, Path, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from pqlite import InvalidJob, Job, JobNotFound, PgJobStore, Worker
from pqlite.demo import page
from pqlite.demo.index import enqueue_files, existing
from pqlite.demo.progress import failures, largest, progress

JobId = Annotated[int, Path(ge=1, le=2**63 - 1)]


class Source(BaseModel):
    """What to index: a file or a directory on this machine, relative to where the demo was started."""

    path: str


class Accepted(BaseModel):
    """The jobs of a request: one per file, `new` of them made for it, the others waiting or running already."""

    jobs: list[int]
    new: int


def create_app(store: PgJobStore, worker: Worker) -> FastAPI:
    """Return the app. While it serves, the worker runs in the same process: that is all there is to set up."""
    app = FastAPI(title="pqlite demo", lifespan=worker.lifespan)

    @app.get("/", response_class=HTMLResponse)
    async def overview() -> str:
        return page.overview(await progress(store), await largest(store), await failures(store), worker.trouble())

    @app.post("/index", status_code=202)
    async def index(source: Source) -> Accepted:
        """Enqueue a job for each Python file of a path."""
        try:
            root = existing(source.path)
        except FileNotFoundError as error:
            raise HTTPException(404, str(error)) from error
        try:
            jobs = await enqueue_files(store, root)
        except InvalidJob as error:
            raise HTTPException(422, str(error)) from error
        return Accepted(jobs=[job.id for job in jobs], new=sum(job.inserted for job in jobs))

    @app.get("/jobs/{job_id}", response_model=None)
    async def show(job_id: JobId, request: Request) -> Job | HTMLResponse:
        """Return a job, as a page for a browser, else as JSON."""
        try:
            job = await store.get(job_id)
        except JobNotFound as error:
            raise HTTPException(404, str(error)) from error
        browser = "text/html" in request.headers.get("accept", "")
        return HTMLResponse(page.job(job)) if browser else job

    return app
