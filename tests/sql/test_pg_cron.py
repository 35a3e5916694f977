"""The contract, used by pg_cron inside a server that has it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pqlite import JobStatus, PgJobStore, Worker
from pqlite.embedded import EmbeddedPostgres
from pqlite.events import JobSettled
from tests.conftest import fast_directory
from tests.sql.psql import run_psql
from tests.support import EventLog, until

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "examples" / "sql" / "pg_cron.sql"
LIBRARIES = sorted(Path("/usr/lib/postgresql").glob("*/lib/pg_cron.so"))
A_MINUTE = 75.0
"""pg_cron's shortest schedule, and some time to start."""

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="pg_cron is not installed (Debian: postgresql-15-cron)")


@pytest.fixture
async def cron_dsn(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setenv("PQLITE_POSTGRES_BIN", str(LIBRARIES[-1].parent.parent / "bin"))
    settings = {
        **{"shared_preload_libraries": "pg_cron", "cron.database_name": "postgres"},
        "cron.use_background_workers": "on",  # no connection, so no password either
    }
    async with EmbeddedPostgres(fsync=False, settings=settings, temp_dir=fast_directory()) as server:
        yield server.dsn


async def test_jobs_that_pg_cron_enqueues_are_run(cron_dsn: str) -> None:
    log = EventLog()
    async with PgJobStore(dsn=cron_dsn) as store:
        await store.migrate()
        handlers = {"refresh_prices": lambda ctx: "refreshed"}
        async with Worker(store=store, handlers=handlers, observers=[log]):
            await run_psql(cron_dsn, EXAMPLE.read_text(encoding="utf-8"))
            await until(lambda: log.of(JobSettled), "a job of pg_cron's", patience=A_MINUTE)

        job = await store.get(log.of(JobSettled)[0].outcome.job.id)
        assert (job.status, job.result, job.dedupe_key) == (JobStatus.DONE, "refreshed", "refresh_prices")
