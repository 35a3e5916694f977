"""Metrics in Prometheus' text format."""

import httpx
from starlette.applications import Starlette

from pqlite import JobContext, PgJobStore, Worker
from pqlite.operations import Metrics, Operations
from tests.support import ended


async def work(ctx: JobContext) -> None:
    if ctx.job.payload == "fail":
        raise ValueError


async def scraped(metrics: Metrics) -> dict[str, str]:
    transport = httpx.ASGITransport(app=Starlette(routes=[metrics.route()]))
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.text.endswith("\n")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return dict(line.rsplit(" ", 1) for line in lines)


async def test_a_scrape_tells_what_this_process_ran_and_what_waits(store: PgJobStore) -> None:
    metrics = Metrics(Operations(store))
    waiting = 'strange "type"\n\\'
    await store.enqueue(waiting, queue="other")
    async with Worker(store=store, handlers={"t": work}, observers=[metrics]):
        await ended(store, await store.enqueue("t"))
        await ended(store, await store.enqueue("t", "fail", max_attempts=1))
        alive = await scraped(metrics)

    found = await scraped(metrics)
    assert found['pqlite_jobs_processed_total{queue="default",job="t",outcome="done"}'] == "1"
    assert found['pqlite_jobs_processed_total{queue="default",job="t",outcome="retry"}'] == "1"
    assert found['pqlite_job_duration_seconds_count{queue="default",job="t"}'] == "2"
    assert found['pqlite_job_duration_seconds_bucket{queue="default",job="t",le="+Inf"}'] == "2"
    label = '{queue="other",job="strange \\"type\\"\\n\\\\",state="due"}'
    assert alive["pqlite_jobs" + label] == "1"
    assert (alive["pqlite_up"], alive['pqlite_workers{state="alive"}']) == ("1", "1")
    assert float(alive['pqlite_queue_oldest_ready_seconds{queue="other"}']) > 0


async def test_a_database_that_is_away_is_told_and_does_not_fail_the_scrape(dsn: str) -> None:
    store = PgJobStore(dsn=dsn)  # not started

    assert await scraped(Metrics(Operations(store))) == {"pqlite_up": "0"}
