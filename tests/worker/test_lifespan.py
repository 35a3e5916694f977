"""Entering and leaving a worker, in every way an app does."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import APIRouter, FastAPI
from litestar import Litestar
from starlette.applications import Starlette

from pqlite import ConfigurationError, JobStatus, PgJobStore, SchemaError, Worker, WorkerError
from pqlite.events import LoopFailed, WorkerRegistered
from tests.support import EventLog, ended, until
from tests.worker.conftest import Run

NOWHERE = "postgresql://postgres@127.0.0.1:1/none"


def worker_for(store: PgJobStore, **options: Any) -> Worker:
    return Worker(store=store, handlers={"t": lambda ctx: ctx.job.payload}, **options)


@pytest.fixture
def unstarted(dsn: str) -> PgJobStore:
    return PgJobStore(dsn=dsn)


async def test_starlette_runs_the_worker(unstarted: PgJobStore) -> None:
    app = Starlette(lifespan=worker_for(unstarted).lifespan)

    async with app.router.lifespan_context(app):
        job = await ended(unstarted, await unstarted.enqueue("t", 1))

    assert job.status is JobStatus.DONE


async def test_a_fastapi_router_runs_the_worker_inside_the_apps_own_lifespan(unstarted: PgJobStore) -> None:
    order: list[str] = []

    @asynccontextmanager
    async def own(_app: FastAPI) -> AsyncIterator[dict[str, int]]:
        order.append("own starts")
        yield {"answer": 42}
        order.append("own ends")

    app = FastAPI(lifespan=own)
    app.include_router(APIRouter(lifespan=worker_for(unstarted).lifespan))

    async with app.router.lifespan_context(app) as state:
        job = await ended(unstarted, await unstarted.enqueue("t", 1))

    assert job.status is JobStatus.DONE
    assert state == {"answer": 42}
    assert order == ["own starts", "own ends"]


async def test_litestar_runs_the_worker(unstarted: PgJobStore) -> None:
    app = Litestar(lifespan=[worker_for(unstarted).lifespan])

    async with app.lifespan():
        job = await ended(unstarted, await unstarted.enqueue("t", 1))

    assert job.status is JobStatus.DONE


async def test_a_worker_is_entered_in_one_task_and_left_in_another(unstarted: PgJobStore) -> None:
    worker = worker_for(unstarted)

    await asyncio.create_task(worker.__aenter__())
    job = await ended(unstarted, await unstarted.enqueue("t", 1))
    await asyncio.create_task(worker.__aexit__())

    assert job.status is JobStatus.DONE
    assert not worker.healthy()


async def test_entering_a_worker_twice_at_once_is_an_error_that_says_why(unstarted: PgJobStore) -> None:
    worker = worker_for(unstarted)

    async with worker:
        with pytest.raises(WorkerError, match="entered twice"):
            await worker.__aenter__()
        job = await ended(unstarted, await unstarted.enqueue("t", 1))

    assert job.status is JobStatus.DONE


async def test_a_worker_runs_a_second_time_after_it_was_left(unstarted: PgJobStore) -> None:
    worker = worker_for(unstarted)

    for number in range(2):
        async with worker:
            job = await ended(unstarted, await unstarted.enqueue("t", number))
            assert job.result == number


async def test_a_worker_runs_again_in_another_event_loop(dsn: str) -> None:
    worker = worker_for(store := PgJobStore(dsn=dsn))

    async def once() -> Any:
        async with worker:
            return (await ended(store, await store.enqueue("t", "x"))).result

    results = [await asyncio.to_thread(lambda: asyncio.run(once())) for _ in range(2)]

    assert results == ["x", "x"]


async def test_a_disabled_worker_runs_nothing_and_still_lets_the_app_enqueue(unstarted: PgJobStore) -> None:
    worker = worker_for(unstarted, enabled=False)

    async with worker:
        job_id = await unstarted.enqueue("t", 1)
        job = await unstarted.get(job_id)
        assert worker.healthy()
        async with unstarted.connection() as conn:
            assert await conn.fetchval("select count(*) from pqlite.workers") == 0

    assert job.status is JobStatus.READY


async def test_worker_enabled_false_in_the_environment_wins_over_the_argument(
    unstarted: PgJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_ENABLED", "false")

    async with worker_for(unstarted, enabled=True) as worker:
        async with unstarted.connection() as conn:
            assert await conn.fetchval("select count(*) from pqlite.workers") == 0

    assert not worker.settings.enabled


async def test_the_worker_leaves_a_store_open_that_it_did_not_start(store: PgJobStore) -> None:
    async with worker_for(store):
        pass

    assert await store.enqueue("t") > 0


async def test_the_worker_closes_a_store_that_it_started(unstarted: PgJobStore) -> None:
    async with worker_for(unstarted):
        assert unstarted.started

    assert not unstarted.started


async def test_a_missing_schema_stops_the_start_with_the_command_to_run(empty_dsn: str) -> None:
    with pytest.raises(SchemaError, match="run 'pqlite migrate'"):
        async with worker_for(PgJobStore(dsn=empty_dsn)):
            pass


async def test_a_store_with_only_a_pool_is_refused_with_what_to_do(dsn: str) -> None:
    async with asyncpg.create_pool(dsn, min_size=0) as pool:
        with pytest.raises(ConfigurationError, match="dsn= or connect="):
            async with worker_for(PgJobStore(pool=pool)):
                pass


async def test_a_pool_of_the_apps_and_a_connect_function_are_enough_for_a_worker(dsn: str) -> None:
    async with asyncpg.create_pool(dsn, min_size=0) as pool:
        store = PgJobStore(pool=pool, connect=lambda: asyncpg.connect(dsn))
        async with worker_for(store):
            job = await ended(store, await store.enqueue("t", 1))
        assert await pool.fetchval("select 1") == 1

    assert job.status is JobStatus.DONE


async def test_with_the_database_away_the_app_starts_and_serves(log: EventLog) -> None:
    store = PgJobStore(dsn=NOWHERE)
    worker = worker_for(store, observers=[log])
    app = FastAPI(lifespan=worker.lifespan)

    @app.get("/")
    async def root() -> str:
        return "served"

    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client,
    ):
        answer = (await client.get("/")).json()
        await log.wait_for(LoopFailed)
        trouble = worker.trouble()

    assert answer == "served"
    assert trouble is not None


async def test_startup_fail_refuses_to_start_without_a_database() -> None:
    with pytest.raises(WorkerError, match="cannot be reached"):
        async with worker_for(PgJobStore(dsn=NOWHERE), startup="fail"):
            pass


async def test_a_cancelled_start_leaves_nothing_behind(unstarted: PgJobStore, conn: asyncpg.Connection) -> None:
    worker = worker_for(unstarted)
    task = asyncio.create_task(worker.__aenter__())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    assert not unstarted.started
    assert await conn.fetchval("select count(*) from pqlite.workers") == 0


async def test_leaving_a_worker_gives_back_every_connection_task_and_thread(run: Run, conn: asyncpg.Connection) -> None:
    threads, tasks = threading.active_count(), len(asyncio.all_tasks())

    async with run({"t": lambda _ctx: None}) as worker:
        await ended(worker.store, await worker.store.enqueue("t"))
        during = await conn.fetchval(CONNECTIONS)
    # The thread that ran the plain function stays with anyio's pool for a while; it belongs to no worker.
    await until(lambda: len(asyncio.all_tasks()) <= tasks, "the tasks to end")

    async def gone() -> bool:
        return await conn.fetchval(CONNECTIONS + " and application_name like 'pqlite %'") == 0

    assert during >= 3
    await until(gone, "the worker's connections to close")
    assert threading.active_count() <= threads + 1


CONNECTIONS = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"


async def test_two_workers_with_one_label_are_two_workers(run: Run, log: EventLog, conn: asyncpg.Connection) -> None:
    async with run({"t": lambda _ctx: None}, worker_id="same"), run({"t": lambda _ctx: None}, worker_id="same"):
        await log.wait_for(WorkerRegistered, count=2)
        holders = await conn.fetch("select id from pqlite.workers where label = 'same'")

    assert len(holders) == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"concurrency": 0}, "concurrency must be a whole number of 1 or more"),
        ({"lease": 5}, "lease must be 12 seconds or longer"),
        ({"startup": "maybe"}, "startup is 'maybe'"),
        ({"unknown_job_types": "drop"}, "unknown_job_types is 'drop'"),
        ({"queues": "default"}, "queues must be a list"),
        ({"queues": 5}, "queues must be a list of names, not 5"),
        ({"queues": []}, "queues is empty: name those to serve, or leave it out"),
        ({"worker_id": "x" * 300}, "worker_id must be 1 to 200 bytes"),
        ({"shutdown_timeout": 0}, "shutdown_timeout must be longer than zero"),
    ],
)
async def test_an_argument_that_cannot_work_is_refused_in_a_sentence(
    store: PgJobStore, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        worker_for(store, **options)


@pytest.mark.parametrize("handlers", [{}, {"": print}, {"t": "not callable"}, {"x" * 201: print}])
async def test_handlers_that_cannot_work_are_refused(store: PgJobStore, handlers: Any) -> None:
    with pytest.raises(ConfigurationError):
        Worker(store=store, handlers=handlers)


@pytest.mark.parametrize(
    "dsn", ["postgresql://app:s3cret", "postgresql://app:s3cret/db", "mysql://app:s3cret@h/db", "s3cret"]
)
def test_a_dsn_that_cannot_work_is_refused_without_being_quoted(dsn: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        PgJobStore(dsn=dsn)

    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize(
    "dsn",
    ["postgresql://u:p@h/db", "postgres://h:5432,i:5433/db", "postgresql:///db?host=/run", "postgresql://u@[::1]:1/db"],
)
def test_every_usual_form_of_a_dsn_is_accepted(dsn: str) -> None:
    assert "p@h" not in repr(PgJobStore(dsn=dsn))


async def test_a_stop_during_a_start_that_hangs_is_heard(
    unstarted: PgJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs() -> None:
        worker.begin_shutdown()
        await asyncio.sleep(60)

    monkeypatch.setattr(unstarted, "check_schema", hangs)
    worker = worker_for(unstarted)
    began = asyncio.get_running_loop().time()
    async with worker:
        pass

    assert asyncio.get_running_loop().time() - began < 3.0


async def test_who_waited_for_the_stop_before_the_start_hears_of_it(unstarted: PgJobStore) -> None:
    worker = worker_for(unstarted)
    waiting = asyncio.create_task(worker.wait_stopping())
    await asyncio.sleep(0)

    async with worker:
        stopping_early = waiting.done()
        worker.begin_shutdown()
        await asyncio.wait_for(waiting, 5)

    assert not stopping_early


async def test_a_worker_whose_sentinel_cannot_start_does_not_start(dsn: str) -> None:
    class Exhausted(PgJobStore):
        def listening_engine(self, purpose: str, on_connect: Any) -> Any:
            raise OSError("too many open files")

    store = Exhausted(dsn=dsn)
    with pytest.raises(WorkerError, match="too many open files"):
        await worker_for(store).__aenter__()

    assert store._enqueue_listeners == []
