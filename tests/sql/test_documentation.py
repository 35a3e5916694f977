"""What ddl/README.md and examples/sql show is run as it stands, by psql."""

import re
from pathlib import Path

import asyncpg
import pytest

from pqlite import JobContext, PgJobStore, Worker
from tests.sql.psql import run_psql
from tests.support import ended

CHECKOUT = Path(__file__).resolve().parent.parent.parent
README = CHECKOUT / "ddl" / "README.md"
EXAMPLES = CHECKOUT / "examples" / "sql"
BLOCKS = re.findall(r"^```sql\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


async def test_every_sql_block_of_the_readme_runs_as_it_stands(dsn: str, conn: asyncpg.Connection) -> None:
    assert len(BLOCKS) > 3
    for block in BLOCKS:
        await run_psql(dsn, block)

    outbox = "select payload::text from pqlite.jobs where job_type = 'invoice_changed'"
    [(payload,)] = await conn.fetch(outbox)
    assert f"-- {payload}" in README.read_text(encoding="utf-8"), payload


async def test_the_readme_names_every_function_of_the_contract_and_every_view(conn: asyncpg.Connection) -> None:
    text = README.read_text(encoding="utf-8")
    views = await conn.fetch("select viewname from pg_views where schemaname = 'pqlite'")
    contract = (Path(__file__).parent / "contract.txt").read_text(encoding="utf-8")
    names = {row[0] for row in views} | set(re.findall(r"^(\w+)\(", contract, re.MULTILINE))

    assert [name for name in sorted(names) if f"`pqlite.{name}" not in text] == []


async def test_the_batch_example_enqueues_all_and_repeats_none_that_has_a_key(
    dsn: str, conn: asyncpg.Connection
) -> None:
    script = (EXAMPLES / "batch_enqueue.sql").read_text(encoding="utf-8")
    for repetition in (1, 2):
        await run_psql(dsn, script)
        counts = await conn.fetch("select job_type, count(*) from pqlite.jobs group by job_type order by job_type")
        assert [tuple(row) for row in counts] == [("invoice", 4), ("send_newsletter", 1000 * repetition)]


async def test_the_outbox_example_makes_a_job_per_change_and_one_invoice(dsn: str, store: PgJobStore) -> None:
    changes: list[str] = []

    async def changed(ctx: JobContext) -> None:
        changes.append(ctx.job.payload["operation"])

    await run_psql(dsn, (EXAMPLES / "outbox.sql").read_text(encoding="utf-8"))
    async with Worker(store=store, handlers={"order_changed": changed}, concurrency=1):
        # the second update's job is the last one
        async with store.connection() as conn:
            last = await conn.fetchval("select max(id) from pqlite.jobs where job_type = 'order_changed'")
            invoices = await conn.fetch("select payload::text from pqlite.jobs where job_type = 'send_invoice'")
        await ended(store, last)

    assert changes == ["INSERT", "UPDATE", "UPDATE"]
    assert len(invoices) == 1


FINISHED = """
    insert into pqlite.jobs (job_type, status, created_at, finished_at)
    select 't', (array['DONE', 'FAILED', 'CANCELLED', 'DONE'])[n % 4 + 1],
           now() - (case when n % 4 = 3 then 1 else 40 end) * interval '1 day',
           now() - (case when n % 4 = 3 then 1 else 40 end) * interval '1 day'
    from generate_series(1, 400) n;
    insert into pqlite.jobs (job_type) values ('t')
"""


async def test_the_cleanup_example_deletes_what_is_old_and_nothing_else(dsn: str, conn: asyncpg.Connection) -> None:
    await conn.execute(FINISHED)

    await run_psql(dsn, (EXAMPLES / "cleanup.sql").read_text(encoding="utf-8"))

    left = await conn.fetch("select status, count(*) from pqlite.jobs group by status order by status")
    assert [tuple(row) for row in left] == [("DONE", 100), ("READY", 1)]


async def test_the_archive_example_moves_what_is_old_and_can_be_repeated(dsn: str, conn: asyncpg.Connection) -> None:
    await conn.execute(FINISHED)

    for _ in range(2):
        await run_psql(dsn, (EXAMPLES / "archive.sql").read_text(encoding="utf-8"))

    assert await conn.fetchval("select count(*) from archive.jobs") == 300
    left = await conn.fetch("select status, count(*) from pqlite.jobs group by status order by status")
    assert [tuple(row) for row in left] == [("DONE", 100), ("READY", 1)]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.sql")), ids=lambda path: path.name)
def test_an_example_says_how_to_run_it(path: Path) -> None:
    assert f"--   psql -f {path.name} app" in path.read_text(encoding="utf-8")
