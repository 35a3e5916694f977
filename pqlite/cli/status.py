"""`pqlite status`: what waits, runs and has lately ended."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import asdict

from pqlite.cli import database
from pqlite.cli.command import Commands, add_command
from pqlite.cli.printing import as_json, shortened, table
from pqlite.operations import Operations, Stats
from pqlite.store.postgres import PgJobStore

DESCRIPTION = """\
What waits, runs and has lately ended. Counts end at 10,000 ("10,000+"), so that
the command is fast beside millions of jobs.
"""

EXAMPLES = """\
examples:
  pqlite status
  pqlite status --json
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "status", run, help="what waits, runs and has ended", description=DESCRIPTION, examples=EXAMPLES
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    database.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the status."""
    address = database.address(arguments.dsn)
    with database.reaching(address.source):
        stats = asyncio.run(_stats(address.dsn, arguments.schema))
    print(as_json(asdict(stats)) if arguments.json else _text(stats))
    return 0


async def _stats(dsn: str, schema: str) -> Stats:
    async with PgJobStore(dsn=dsn, schema=schema) as store:
        return await Operations(store).stats()


def _text(stats: Stats) -> str:
    parts = [f"running {stats.running}, blocked {stats.blocked}, suspects {stats.suspects}"]
    if stats.waiting:
        rows = [("QUEUE", "JOB TYPE", "DUE", "LATER", "OLDEST DUE")]
        rows += [
            (each.queue, each.job_type, str(each.due), str(each.later), _seconds(each.oldest_due_seconds))
            for each in stats.waiting
        ]
        parts.append(table(rows) + ("\nThere are more than 500 lanes; the others are not shown." * stats.more_lanes))
    if stats.ended:
        heads = ("JOB TYPE", "DONE 1 MIN", "5 MIN", "60 MIN", "FAILED", "CANCELLED", "RUN P50", "P95", "WAIT P95")
        rows_ended: list[tuple[str, ...]] = [heads]
        for one in stats.ended:
            counts = (one.done_1, one.done_5, one.done_60, one.failed_60, one.cancelled_60)
            times = (one.run_p50, one.run_p95, one.wait_p95)
            rows_ended.append((one.job_type, *(f"{number:,}" for number in counts), *map(_seconds, times)))
        part = table(rows_ended)
        if stats.since_minutes < 60:
            part += f"\nDONE jobs are counted among the newest 20,000, of the last {stats.since_minutes:.0f} minutes."
        parts.append(part)
    if stats.failures:
        rows_failed = [("FAILED", "JOB TYPE", "ERROR")]
        rows_failed += [(f"{each.number:,}", each.job_type, shortened(each.error, 60)) for each in stats.failures]
        parts.append(table(rows_failed))
    return "\n\n".join(parts)


def _seconds(number: float | None) -> str:
    return "-" if number is None else f"{number:,.3f} s" if number < 10 else f"{number:,.0f} s"
