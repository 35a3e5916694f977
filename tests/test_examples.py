"""Every example does what its docstring claims, against a real database."""

import asyncio
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from pqlite import JobStatus, PgJobStore
from tests.support import ended
from tests.testing.projects import passed, run_pytest, write_project

CHECKOUT = Path(__file__).resolve().parent.parent
NAMES = sorted(path.stem for path in (CHECKOUT / "examples").glob("*.py"))


@pytest.fixture(autouse=True)
def database_url(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.chdir(CHECKOUT)
    for name in NAMES:
        monkeypatch.delitem(sys.modules, f"examples.{name}", raising=False)


@pytest.mark.parametrize("name", NAMES)
async def test_an_example_without_a_database_says_what_to_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")

    with pytest.raises(SystemExit, match="Set DATABASE_URL, such as postgresql://"):
        load(name)


async def test_the_quickstart_answers_with_a_job_whose_result_can_be_read() -> None:
    quickstart = load("quickstart")
    async with client_of(quickstart) as client:
        answer = await client.post("/conversations/7/summary")
        job_id = answer.json()["job_id"]
        await ended(quickstart.store, job_id)

        job = (await client.get(f"/jobs/{job_id}")).json()

        assert answer.status_code == 202
        assert job["status"] == "DONE"
        assert job["result"] == {"summary": "Conversation 7: they agreed."}
        assert (await client.get("/jobs/4711")).status_code == 404


async def test_the_quickstart_serves_without_a_worker_and_keeps_one_waiting_job_per_conversation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKER_ENABLED", "false")
    quickstart = load("quickstart")
    async with client_of(quickstart) as client:
        first = (await client.post("/conversations/7/summary")).json()
        again = (await client.post("/conversations/7/summary")).json()
        other = (await client.post("/conversations/8/summary")).json()

        assert first == again != other
        assert (await quickstart.store.get(first["job_id"])).status is JobStatus.READY


async def test_an_order_and_its_job_are_both_committed_or_both_rolled_back() -> None:
    example = load("transactional_enqueue")
    async with client_of(example) as client:
        placed = await client.post("/orders", params={"item": "lamp", "quantity": 2})
        refused = await client.post("/orders", params={"item": "lamp", "quantity": 200})
        job = await ended(example.store, placed.json()["job_id"])

        assert (placed.status_code, refused.status_code) == (201, 409)
        assert job.status is JobStatus.DONE
        async with example.store.connection() as conn:
            orders = await conn.fetch("select id, item, quantity, confirmed from orders")
            jobs = await conn.fetch("select id from pqlite.jobs")
        assert [tuple(order) for order in orders] == [(placed.json()["order_id"], "lamp", 2, True)]
        assert [row["id"] for row in jobs] == [job.id]


async def test_a_session_enqueues_with_its_rows_and_completes_with_its_writes() -> None:
    example = load("sqlalchemy_session")
    async with client_of(example) as client:
        placed = await client.post("/orders", params={"item": "lamp", "quantity": 2})
        refused = await client.post("/orders", params={"item": "lamp", "quantity": -1})
        job = await ended(example.store, placed.json()["job_id"])

        assert (placed.status_code, refused.status_code) == (201, 422)
        assert (job.status, job.result) == (JobStatus.DONE, {"item": "lamp"})
        async with example.store.connection() as conn:
            orders = await conn.fetch("select id, item, quantity, confirmed from orders")
            jobs = await conn.fetch("select id from pqlite.jobs")
        assert [tuple(order) for order in orders] == [(placed.json()["order_id"], "lamp", 2, True)]
        assert [row["id"] for row in jobs] == [job.id]


async def test_typed_jobs_send_by_a_mailer_that_a_test_replaces() -> None:
    example = load("typed_jobs")
    sent: list[tuple[str, str]] = []

    class FakeMailer(example.Mailer):  # type: ignore[misc,name-defined]
        async def send(self, to: str, text: str) -> object:
            sent.append((to, text))
            return example.Receipt(to, datetime(2024, 2, 29, tzinfo=UTC))

    with example.handlers.override({example.get_mailer: FakeMailer}):
        async with client_of(example) as client:
            created = await client.post("/users", json={"name": "Ada", "email": "ada@example.org"})
            user_id = created.json()["user_id"]
            receipt = await client.get(f"/receipts/{created.json()['job_id']}")
            welcome = await ended(example.store, created.json()["job_id"])
            reminded = await client.post(f"/users/{user_id}/reminder", params={"hours": 0})
            reminder = await ended(example.store, reminded.json()["job_id"])
            old = await ended(example.store, await example.store.enqueue("nag", {"user_id": user_id, "days": 2}))
            gone = await ended(example.store, await example.store.enqueue(example.send_reminder.new(4711, TWO_DAYS)))
            wrong = await ended(example.store, await example.store.enqueue("send_welcome", {"name": "Bob"}))
            bob = example.NewUser(name="Bob", email="bob@example.org")
            later = await example.store.enqueue(example.send_welcome.new(bob), run_after=TWO_DAYS)
            missing = [await client.get(f"/receipts/{each}", params={"seconds": 0}) for each in (wrong.id, later, 4711)]

    assert (created.status_code, reminded.status_code) == (201, 202)
    assert sent == [
        ("ada@example.org", "Welcome, Ada!"),
        ("ada@example.org", "You asked for this 0:00:00 ago."),
        ("ada@example.org", "You asked for this 2 days, 0:00:00 ago."),
    ]
    assert [job.status for job in (welcome, reminder, old, gone, wrong)] == ["DONE"] * 4 + ["FAILED"]
    assert welcome.payload == {"name": "Ada", "email": "ada@example.org"}
    assert receipt.json() == welcome.result == {"to": "ada@example.org", "sent_at": "2024-02-29T00:00:00Z"}
    assert [response.status_code for response in missing] == [502, 504, 404]
    assert (welcome.queue, welcome.max_attempts, welcome.timeout_seconds) == ("mail", 8, 30.0)
    assert gone.result is None
    assert wrong.last_error == "The payload does not fit the handler of 'send_welcome': email: Field required"


TWO_DAYS = timedelta(days=2)


async def test_the_real_mailer_of_the_typed_jobs_is_a_plain_function_to_a_unit_test() -> None:
    example = load("typed_jobs")

    receipt = await example.send_welcome(example.NewUser(name="Ada", email="ada@example.org"), example.Mailer())

    assert receipt.to == "ada@example.org"


async def test_a_chain_runs_its_steps_in_order_and_each_once(store: PgJobStore) -> None:
    output = await run("examples/chaining.py")

    assert output.splitlines() == ["charged order 7", "packed order 7", "shipped order 7"]
    async with store.connection() as conn:
        jobs = await conn.fetch("select job_type, status, attempts from pqlite.jobs order by id")
    assert [tuple(job) for job in jobs] == [("charge", "DONE", 1), ("pack", "DONE", 1), ("ship", "DONE", 1)]


async def test_schedules_fire_at_their_slots_and_keep_what_the_code_says(store: PgJobStore) -> None:
    output = await run("examples/schedules.py")

    lines = output.splitlines()
    assert [line[:11] for line in lines[:3]] == ["heartbeat 1", "heartbeat 2", "heartbeat 3"]
    stored = {each.name: each for each in await store.schedules()}
    assert stored.keys() == {"heartbeat", "report", "weekly_report"}
    assert stored["weekly_report"].payload == {"days": 7}


async def test_a_worker_without_an_app_runs_what_another_process_enqueued_and_stops_on_sigterm(
    store: PgJobStore,
) -> None:
    command = [sys.executable, "-m", "pqlite", "worker", "examples.worker_only:worker"]
    worker = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        job_id = int(await run("examples/worker_only.py", "some", "text"))

        job = await ended(store, job_id)

        assert job.status is JobStatus.DONE
        assert len(bytes.fromhex(job.result)) == 64
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, 15) == 0
    finally:
        worker.kill()
        worker.wait()


async def test_those_who_listen_have_heard_everything_when_the_worker_has_stopped() -> None:
    output = await run("examples/listening.py")

    assert output.splitlines() == [
        "job 3 is lost: 7 is odd",
        "{'enqueued': 4, 'halve DONE': 3, 'halve FAILED': 1}",
    ]


async def test_the_backoff_policy_of_the_example_decides_when_the_next_attempt_comes(store: PgJobStore) -> None:
    output = await run("examples/own_backoff.py")

    assert output.splitlines() == [
        "attempt 1 failed, the next comes in about 0.1 s",
        "attempt 2 failed, the next comes in about 0.2 s",
        "attempt 3 succeeded",
    ]
    job = await store.get(1)
    assert (job.status, job.attempts, len(job.errors)) == (JobStatus.DONE, 3, 2)


async def test_the_policies_of_the_example_are_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    example = load("own_backoff")

    assert 48.0 <= example.Doubling().retry_delay(50) <= 60.0
    assert example.Steady().next_sleep(1) == example.Steady().next_sleep(1000) == 0.5


async def test_a_long_job_shows_how_far_it_is_and_two_are_waited_for(store: PgJobStore) -> None:
    first, *others = (await run("examples/progress.py")).splitlines()

    assert first.startswith("job 2 is done; job 1: {'message': 'page ")
    assert others == ["job 2: 2 pages", "job 1: 12 pages"]


async def test_a_queue_is_paused_by_the_first_job_that_finds_its_provider_down(store: PgJobStore) -> None:
    output = await run("examples/pause.py")

    assert output.splitlines() == [
        "queue 'mail' is paused: the provider is down",
        "3 mails were sent after it was resumed",
    ]
    assert [(await store.get(job_id)).attempts for job_id in (1, 2, 3)] == [1, 1, 1]


async def test_the_failures_of_a_type_are_explained_and_retried(store: PgJobStore) -> None:
    output = await run("examples/operating.py")

    assert output.splitlines()[0].startswith("FAILED: it is FAILED since ")
    assert output.splitlines()[0].endswith("the provider gave a timeout")
    assert output.splitlines()[1:3] == ["2 invoices failed by a timeout", "2 of 2 were retried"]
    assert [line.split(":")[0] for line in output.splitlines()[3:]] == ["NO_WORKER", "DUE"]
    assert (await store.get(3)).status is JobStatus.FAILED


async def test_the_ledger_has_one_entry_although_the_deposit_started_twice(store: PgJobStore) -> None:
    output = await run("examples/exactly_once.py")

    assert output == "job 1: [('ada', 500)]\n"
    job = await store.get(1)
    assert (job.status, job.attempts, job.result) == (JobStatus.DONE, 2, {"credited": 500})
    assert "the power fails" in job.errors[0]["error"]


@pytest.mark.parametrize(("mark", "mode"), [("anyio", "strict"), ("anyio", "auto"), ("asyncio", "strict")])
async def test_the_tests_that_newcomers_copy_pass(dsn: str, tmp_path: Path, mark: str, mode: str) -> None:
    files = {path.name: path.read_text() for path in (CHECKOUT / "examples" / "testing_jobs").glob("*.py")}
    files["test_shop.py"] = files["test_shop.py"].replace("pytest.mark.anyio", f"pytest.mark.{mark}")
    project = write_project(tmp_path, files)
    options = ["-o", f"asyncio_mode={mode}", "-o", "asyncio_default_fixture_loop_scope=function"]

    ran = await asyncio.to_thread(run_pytest, project, *options, PQLITE_TEST_DSN=dsn)

    assert passed(ran, 9)


def load(name: str) -> ModuleType:
    return importlib.import_module(f"examples.{name}")


@asynccontextmanager
async def client_of(module: ModuleType) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=module.app)
    async with module.app.router.lifespan_context(module.app):
        async with httpx.AsyncClient(transport=transport, base_url="http://example") as client:
            yield client


async def run(*arguments: str) -> str:
    """Run a script to its end; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=os.environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(30):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return output.decode()
