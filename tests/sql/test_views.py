"""pqlite.queue_stats and pqlite.stuck_jobs: what a person sees at 3 a.m."""

import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from pqlite import schema

HISTORY = 100_000


async def insert(conn: asyncpg.Connection, count: int = 1, **columns: str) -> None:
    """Insert jobs whose columns are SQL."""
    names = {"job_type": "'t'", **columns}
    await conn.execute(
        f"insert into pqlite.jobs ({', '.join(names)}) select {', '.join(names.values())} "
        f"from generate_series(1, {count}) n"
    )


async def register(conn: asyncpg.Connection, worker: str, info: dict[str, Any] | None = None, **columns: str) -> None:
    names = {"lease_until": "now() + interval '20 s'", "label": "'host-1'", **columns}
    await conn.execute(
        f"insert into pqlite.workers (id, info, {', '.join(names)}) values ($1, $2, {', '.join(names.values())})",
        worker,
        json.dumps(info or {}),
    )


# queue_stats


async def test_stats_count_what_waits_runs_and_has_ended_in_the_last_hour(conn: asyncpg.Connection) -> None:
    await insert(conn, 3, run_after="now() - n * interval '1 minute'")
    await insert(conn, 2, run_after="now() + interval '1 minute'")
    await insert(conn, 1, crashes="1", run_after="now() - interval '10 minutes'")
    await insert(conn, 4, status="'BLOCKED'")
    await insert(conn, 5, status="'RUNNING'", locked_by="'w'", locked_at="now()")
    for status, count in (("DONE", 6), ("FAILED", 7), ("CANCELLED", 8)):
        await insert(conn, count, status=f"'{status}'", finished_at="now() - interval '59 minutes'")
        await insert(conn, count, status=f"'{status}'", finished_at="now() - interval '61 minutes'")
    await insert(conn, 1, queue="'other'")

    rows = await conn.fetch("select * from pqlite.queue_stats order by queue")

    assert [dict(row) | {"oldest_due_seconds": None} for row in rows] == [
        {
            **{"queue": "default", "job_type": "t", "due": 4, "later": 2, "suspects": 1, "blocked": 4, "running": 5},
            **{"done_last_hour": 6, "failed_last_hour": 7, "cancelled_last_hour": 8, "oldest_due_seconds": None},
        },
        {
            **{"queue": "other", "job_type": "t", "due": 1, "later": 0, "suspects": 0, "blocked": 0, "running": 0},
            **{"done_last_hour": 0, "failed_last_hour": 0, "cancelled_last_hour": 0, "oldest_due_seconds": None},
        },
    ]
    assert 600 <= rows[0]["oldest_due_seconds"] < 630


async def test_nothing_due_has_no_age(conn: asyncpg.Connection) -> None:
    await insert(conn, run_after="now() + interval '1 hour'")

    assert await conn.fetchval("select oldest_due_seconds is null from pqlite.queue_stats")


# stuck_jobs

RUNNING = {"status": "'RUNNING'", "locked_by": "'w'"}


@pytest.mark.parametrize(
    ("columns", "worker", "reason"),
    [
        ({**RUNNING, "locked_at": "now()"}, {"dead_at": "now()"}, "its worker is dead"),
        (
            {**RUNNING, "locked_at": "now()"},
            {"lease_until": "now() - interval '1 s'"},
            "renewed its lease",
        ),
        ({**RUNNING, "locked_at": "now() - interval '21 minutes'"}, None, "no registered worker holds it"),
        (
            {**RUNNING, "locked_at": "now() - interval '6 s'", "timeout_seconds": "5"},
            None,
            "no registered worker",
        ),
        (
            {**RUNNING, "locked_at": "now()", "cancel_requested_at": "now() - interval '2 minutes'"},
            {},
            "it was asked to cancel at",
        ),
        (
            {**RUNNING, "locked_at": "now() - interval '2 minutes'", "timeout_seconds": "20"},
            {},
            "it runs far beyond its timeout of 20 s",
        ),
        ({**RUNNING, "locked_at": "now() - interval '25 hours'"}, {}, "it has run for more than a day"),
        ({"crashes": "2", "run_after": "now()"}, {}, "suspect: a worker died while it held it (2 of its attempts)"),
        (
            {"status": "'BLOCKED'", "waiting_on": "1", "updated_at": "now() - interval '2 hours'"},
            {},
            "waits for 1 other job",
        ),
    ],
)
async def test_a_stuck_job_is_shown_with_its_reason_and_its_worker(
    conn: asyncpg.Connection, columns: dict[str, str], worker: dict[str, str] | None, reason: str
) -> None:
    if worker is not None:
        await register(conn, "w", **worker)
    await insert(conn, **columns)

    [row] = await conn.fetch("select * from pqlite.stuck_jobs")

    assert reason in row["reason"]
    expected = ("host-1" if worker is not None else "w") if "locked_by" in columns else None
    assert (row["worker"], row["job_type"], row["status"]) == (expected, "t", columns.get("status", "'READY'")[1:-1])
    assert row["seconds"] >= 0


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (None, "due, and no worker is running"),
        ({"queues": ["mail"], "job_types": None}, "due, and no worker that runs serves its queue"),
        ({"queues": None, "job_types": ["u"]}, "has a handler for its job type"),
        ({"job_types": ["t"], "payload_versions": {"t": 1}}, "knows its payload's version"),
        ({"job_types": ["t"], "payload_versions": {"t": 2}}, "due for long, though workers serve it"),
        ({"job_types": ["t"], "payload_versions": {}}, "due for long, though workers serve it"),
        ({"queues": ["default"], "job_types": ["t"]}, "due for long, though workers serve it"),
        ({}, "due for long, though workers serve it"),
    ],
)
async def test_a_job_that_waits_for_long_says_who_could_run_it(
    conn: asyncpg.Connection, info: dict[str, Any] | None, reason: str
) -> None:
    if info is not None:
        await register(conn, "w", info)
    await register(conn, "gone", {}, dead_at="now()")
    metadata = """'{"payload_version": 2}'"""
    await insert(conn, 3, run_after="now() - n * interval '10 minutes'", metadata=metadata)
    await insert(conn, 3, priority="1", run_after="now() - n * interval '1 hour'", metadata=metadata)

    rows = await conn.fetch("select * from pqlite.stuck_jobs order by id")

    assert [(row["id"], int(row["seconds"] / 60)) for row in rows] == [(3, 30), (6, 180)]
    assert all(reason in row["reason"] for row in rows)


@pytest.mark.parametrize(
    "columns",
    [
        {"run_after": "now() - interval '4 minutes'"},
        {"run_after": "now() + interval '4 minutes'"},
        {**RUNNING, "locked_at": "now() - interval '23 hours'"},
        {**RUNNING, "locked_at": "now() - interval '50 s'", "timeout_seconds": "20"},
        {**RUNNING, "locked_at": "now() - interval '1 hour'", "timeout_seconds": "1e300"},
        {**RUNNING, "locked_at": "now()", "cancel_requested_at": "now()"},
        {**RUNNING, "locked_by": "'by hand'", "locked_at": "now() - interval '19 minutes'"},
        {"status": "'BLOCKED'"},
        {"status": "'DONE'"},
        {"status": "'FAILED'", "crashes": "3"},
        {"crashes": "1", "run_after": "now() + interval '1 minute'"},
    ],
)
async def test_a_job_that_goes_its_way_is_not_shown(conn: asyncpg.Connection, columns: dict[str, str]) -> None:
    await register(conn, "w")
    await insert(conn, **columns)

    assert await conn.fetch("select * from pqlite.stuck_jobs") == []


# What they show and what they cost


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


@pytest.mark.parametrize("view", ["queue_stats", "stuck_jobs"])
async def test_a_view_shows_nothing_of_payloads(conn: asyncpg.Connection, view: str) -> None:
    await register(conn, "w", dead_at="now()")
    secret = {"payload": "'\"secret\"'", "result": "'\"secret\"'", "last_error": "'secret'", "dedupe_key": "'secret'"}
    await insert(conn, metadata='\'{"a": "secret"}\'', tags="'{secret}'", locked_at="now()", **RUNNING, **secret)

    [row] = await conn.fetch(f"select v::text from pqlite.{view} v")

    assert "secret" not in row[0]


@pytest.mark.parametrize("view", ["queue_stats", "stuck_jobs"])
async def test_a_view_reads_nothing_of_a_long_history(conn: asyncpg.Connection, view: str) -> None:
    old = "now() - interval '3 hours'"
    await insert(conn, HISTORY, status="(array['DONE', 'DONE', 'FAILED'])[n % 3 + 1]", finished_at=old, run_after=old)
    await insert(conn, 1000, run_after=old, queue="'q' || n % 5")
    await insert(conn, 100, locked_at=old, **RUNNING)
    await conn.execute("vacuum analyze pqlite.jobs")

    plan = await conn.fetchval(f"explain (analyze, buffers, format json) select * from pqlite.{view}")

    [top] = json.loads(plan)
    scans = [node for node in nodes(top["Plan"]) if node.get("Relation Name") == "jobs"]
    assert len(scans) >= 4
    assert [node for node in scans if node["Node Type"] == "Seq Scan"] == []
    pages = await conn.fetchval("select relpages from pg_class where oid = 'pqlite.jobs'::regclass")
    touched = top["Plan"]["Shared Hit Blocks"] + top["Plan"]["Shared Read Blocks"]
    assert touched < pages, f"{touched} of {pages}:\n{plan}"


# Replacing them


async def definition(conn: asyncpg.Connection) -> list[tuple[Any, ...]]:
    rows = await conn.fetch(
        "select c.oid, c.relacl::text, pg_get_viewdef(c.oid), c.relowner from pg_class c "
        "where c.oid = 'pqlite.queue_stats'::regclass"
    )
    return [tuple(row) for row in rows]


async def test_migrating_leaves_views_alone_that_have_not_changed(conn: asyncpg.Connection) -> None:
    """Replacing one would wait for every transaction that has read it."""
    before = await definition(conn)
    await schema.migrate(conn)

    assert await definition(conn) == before


async def test_a_view_of_an_older_version_is_replaced_with_its_columns_and_keeps_its_grants(
    conn: asyncpg.Connection,
) -> None:
    before = await definition(conn)
    await conn.execute("create role pqlite_test_role; create role pqlite_test_owner superuser")
    try:
        await conn.execute(
            """
            call pqlite.replace_view('queue_stats', 'select 1 as formerly, 2 as due');
            alter view pqlite.queue_stats owner to pqlite_test_owner;
            grant select on pqlite.queue_stats to pqlite_test_role with grant option;
            grant select on pqlite.queue_stats to public;
            """
        )
        [(old, *granted)] = await definition(conn)

        await schema.migrate(conn)

        [(oid, grants, text, owner)] = await definition(conn)
        assert oid != old
        assert (grants, owner) == (granted[0], granted[2])
        assert text == before[0][2]
    finally:
        await conn.execute("drop owned by pqlite_test_role, pqlite_test_owner")
        await conn.execute("drop role pqlite_test_role, pqlite_test_owner")
