"""`pqlite prune` deletes old finished jobs, and only with --yes; and `pqlite worker` logs JSON if asked to."""

import json
from pathlib import Path

import asyncpg

from tests.cli.process import pqlite

APP = """
import os
from pqlite import PgJobStore, Worker

async def work(ctx):
    ctx.log.info("at work")

worker = Worker(store=PgJobStore(dsn=os.environ["APP_DSN"]), handlers={"t": work})
"""


async def test_old_jobs_are_deleted_and_only_if_yes_is_said(dsn: str, conn: asyncpg.Connection) -> None:
    await conn.execute(
        "insert into pqlite.jobs (job_type, status, created_at, finished_at) "
        "select 't', 'DONE', now() - a, now() - a from unnest('{8 days,8 days,1 day}'::interval[]) a"
    )

    asked = await pqlite("prune", "--dsn", dsn)
    assert (asked.status, asked.out) == (2, "")
    assert asked.err.startswith("This deletes DONE jobs older than 7 days, ")
    assert (await pqlite("prune", "--yes", "--dsn", dsn)).out == "Deleted 2 jobs.\n"
    assert json.loads((await pqlite("prune", "--done-days", "0", "--yes", "--json", "--dsn", dsn)).out) == {
        "deleted": 1
    }


async def test_a_worker_logs_json_if_asked_to(dsn: str, tmp_path: Path, conn: asyncpg.Connection) -> None:
    (tmp_path / "main.py").write_text(APP)
    await conn.execute("select pqlite.enqueue('t')")

    env = {"APP_DSN": dsn, "WORKER_LOG_JSON": "1"}
    ran = await pqlite("worker", "main:worker", "--once", cwd=tmp_path, env=env)

    [at_work] = [record for record in map(json.loads, ran.err.splitlines()) if record["message"] == "at work"]
    assert (at_work["job_id"], at_work["job_type"], at_work["level"]) == (1, "t", "INFO")
