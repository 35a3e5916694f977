"""Stats count what waits, runs and has ended, up to their cap."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from pqlite import PgJobStore
from pqlite.operations import Count, Operations
from tests.cli.process import pqlite


async def test_an_empty_queue_has_stats(store: PgJobStore) -> None:
    stats = await Operations(store).stats()

    assert (stats.waiting, stats.running, stats.ended, stats.failures) == ([], Count(0, False), [], [])
    assert stats.oldest_due_seconds is None


async def test_waiting_jobs_are_counted_per_queue_and_type_over_their_priorities(store: PgJobStore) -> None:
    for priority in (0, 0, 5):
        await store.enqueue("mail", queue="q", priority=priority)
    await store.enqueue("mail", queue="q", run_after=timedelta(hours=1))
    await store.enqueue("report", run_after=datetime.now(UTC) - timedelta(minutes=10))

    stats = await Operations(store).stats()

    told = [(each.queue, each.job_type, each.due.number, each.later.number) for each in stats.waiting]
    assert told == [("default", "report", 1, 0), ("q", "mail", 3, 1)]
    assert stats.oldest_due_seconds == pytest.approx(600, abs=60)


async def test_counts_stop_at_the_cap_and_say_so(store: PgJobStore, conn: asyncpg.Connection) -> None:
    await conn.execute("insert into pqlite.jobs (job_type) select 't' from generate_series(1, 10001)")

    [waiting] = (await Operations(store).stats()).waiting

    assert str(waiting.due) == "10,000+"


async def test_ended_jobs_have_rates_times_and_classes_of_errors(
    dsn: str, store: PgJobStore, conn: asyncpg.Connection
) -> None:
    await conn.execute(
        """
        insert into pqlite.jobs (job_type, status, run_after, finished_at, duration_ms, last_error, locked_by) values
          ('t', 'DONE', now() - interval '13 s', now() - interval '10 s', 1000, null, null),
          ('t', 'DONE', now() - interval '125 s', now() - interval '2 min', 3000, null, null),
          ('t', 'DONE', now() - interval '3 h', now() - interval '2 h', 9000, null, null),
          ('t', 'FAILED', now(), now(), 5, E'Traceback\n  File "x: y"\nValueError: no: never', null),
          ('t', 'FAILED', now(), now(), 5, 'ValueError: another', null),
          ('u', 'CANCELLED', now(), now(), null, null, null),
          ('u', 'BLOCKED', now(), null, null, null, null),
          ('u', 'RUNNING', now(), null, null, null, 'somebody')
        """
    )
    await conn.execute("insert into pqlite.jobs (job_type, crashes) values ('t', 1)")

    stats = await Operations(store).stats()

    [t, u] = stats.ended
    assert (t.done_1, t.done_5, t.done_60, t.failed_60, u.cancelled_60) == (1, 2, 2, 2, 1)
    assert (t.run_p50, u.run_p50) == (2, None)
    assert t.wait_p50 == pytest.approx(2, abs=0.1)
    assert [(each.job_type, each.error, each.number) for each in stats.failures] == [("t", "ValueError", 2)]
    assert (stats.running.number, stats.running_by_type, stats.blocked.number) == (1, {"u": 1}, 1)
    assert (stats.suspects.number, stats.since_minutes) == (1, 60)

    shown = (await pqlite("status", "--dsn", dsn)).out
    assert shown.startswith("running 1, blocked 1, suspects 1\n")
    assert "2       t         ValueError" in shown
