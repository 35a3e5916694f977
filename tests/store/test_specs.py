"""Jobs that come to `enqueue` as objects, and the middleware they pass through."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from pqlite import ConfigurationError, Handlers, InvalidJob, NewJob, PgJobStore
from pqlite.job import NewJobs
from pqlite.testing import MemoryJobStore


async def test_a_job_object_is_enqueued_like_its_fields(store: PgJobStore) -> None:
    job = NewJob(job_type="t", payload={"n": 1}, priority=3, metadata={"a": 1}, version=2)

    stored = await store.get(await store.enqueue(job))
    again = await store.get(await store.enqueue(job, metadata={"b": 1}))

    assert (stored.job_type, stored.payload, stored.priority) == ("t", {"n": 1}, 3)
    assert stored.metadata == {"a": 1, "payload_version": 2}
    assert again.metadata == {"b": 1, "payload_version": 2}
    assert job == NewJob(job_type="t", payload={"n": 1}, priority=3, metadata={"a": 1}, version=2)


async def test_a_job_object_has_its_payload_already(store: PgJobStore) -> None:
    with pytest.raises(InvalidJob, match="'t' has its payload already"):
        await store.enqueue(NewJob(job_type="t"), {"n": 1})  # type: ignore[call-overload]


async def test_an_option_that_does_not_exist_is_an_error(store: PgJobStore) -> None:
    for job in ("t", NewJob(job_type="t")):
        with pytest.raises(TypeError, match="enqueue has no option 'priorty'; is it 'priority'"):
            await store.enqueue(job, priorty=3)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match=r"no option 'zzz'; the known ones are dedupe_key, .* is the payload"):
            await store.enqueue(job, zzz=3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="a job has no option 'priorty'; is it 'priority'"):
        NewJob(job_type="t").with_options(priorty=3)  # type: ignore[call-arg]
    for field, advice in (("priorty", "is it 'priority'"), ("zzz", "the known ones are job_type")):
        with pytest.raises(InvalidJob, match=f"job 1: a job has no field '{field}'; {advice}"):
            await store.enqueue_many([NewJob(job_type="t"), {"job_type": "t", field: 3}])


async def test_what_is_no_job_is_refused_with_what_would_be_one(store: PgJobStore) -> None:
    handlers = Handlers()

    @handlers.job("t")
    async def handler() -> None: ...

    for given in (handler, handler.new):
        with pytest.raises(InvalidJob, match=r"job such as handler.new\(...\) returns, not <"):
            await store.enqueue(given)  # type: ignore[call-overload]
        with pytest.raises(InvalidJob, match=r"job 0: a job is a NewJob, such as handler.new\(...\) returns"):
            await store.enqueue_many([given])  # type: ignore[arg-type]
    with pytest.raises(InvalidJob, match="enqueue_many takes several jobs, such as a list; enqueue takes one"):
        await store.enqueue_many(handler.new())  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [0, "2", 1.5, None])
async def test_a_version_that_is_no_version_is_refused(store: PgJobStore, version: Any) -> None:
    with pytest.raises(InvalidJob, match="version must be a whole number from 1"):
        await store.enqueue(NewJob(job_type="t", version=version))


trace: ContextVar[str] = ContextVar("trace")


def traced(job: NewJob) -> NewJob:
    job.metadata = {**(job.metadata or {}), "trace": trace.get()}
    return job


def numbered(job: NewJob) -> NewJob:
    return replace(job, tags=[*job.tags, str(len(job.metadata or {}))])


@pytest.fixture
async def through(dsn: str) -> AsyncIterator[PgJobStore]:
    async with PgJobStore(dsn=dsn, middleware=[traced, numbered]) as store:
        yield store


async def later(jobs: list[Any]) -> AsyncIterator[Any]:
    for job in jobs:
        yield job


def drawn(jobs: list[Any]) -> Iterator[Any]:
    yield from jobs


@pytest.mark.parametrize("source", [list, tuple, drawn, later])
async def test_every_job_passes_through_the_middleware_in_order_and_what_was_given_stays_as_it_is(
    through: PgJobStore, source: Callable[[list[Any]], NewJobs]
) -> None:
    trace.set("abc")
    mine = NewJob(job_type="t", metadata={"a": 1}, tags=["x"])

    async with through.transaction() as conn:
        ids = [
            await through.enqueue(mine),
            await through.enqueue("t", metadata={"a": 1}, tags=["x"]),
            await through.enqueue(mine, dedupe_key="k"),
            await through.enqueue(mine, conn=conn),
            *(verdict.id for verdict in await through.enqueue_many(source([mine, {"job_type": "t"}, mine]))),
        ]

    jobs = [await through.get(job_id) for job_id in ids]
    assert mine == NewJob(job_type="t", metadata={"a": 1}, tags=["x"])
    assert [(job.metadata, job.tags) for job in jobs if job.id != ids[5]] == 6 * [
        ({"a": 1, "trace": "abc"}, ["x", "2"])
    ]
    assert (jobs[5].metadata, jobs[5].tags) == ({"trace": "abc"}, ["1"])


async def test_what_middleware_raises_or_returns_instead_of_a_job_is_the_callers_error(dsn: str) -> None:
    def forgets(job: NewJob) -> Any:
        job.priority = 3

    def refuses(job: NewJob) -> NewJob:
        raise PermissionError("not here")

    async with PgJobStore(dsn=dsn, middleware=[forgets]) as store:
        with pytest.raises(InvalidJob, match=r"forgets.* must return a NewJob, not None"):
            await store.enqueue("t")
    async with PgJobStore(dsn=dsn, middleware=[refuses]) as store:
        with pytest.raises(PermissionError):
            await store.enqueue_many([NewJob(job_type="t")])
        with pytest.raises(InvalidJob, match=r"job 0: .*prio"):
            await store.enqueue_many([{"job_type": "t", "prio": 1}])
        async with store.connection() as conn:
            assert await conn.fetchval("select count(*) from pqlite.jobs") == 0


@pytest.mark.parametrize("middleware", [replace, [3], ["trace"]])
@pytest.mark.parametrize("make", [partial(PgJobStore, "postgresql://localhost/app"), MemoryJobStore])
def test_middleware_that_is_no_list_of_functions_is_refused_where_the_store_is_made(
    make: Callable[..., object], middleware: Any
) -> None:
    with pytest.raises(ConfigurationError, match=r"middleware must be (a list|functions)"):
        make(middleware=middleware)
