"""`pqlite prune`: delete finished jobs that are older than their retention."""

from __future__ import annotations

import argparse
import asyncio
import sys
from datetime import timedelta

from pqlite.cli import database
from pqlite.cli.command import Commands, add_command
from pqlite.cli.failure import Failure
from pqlite.cli.printing import as_json
from pqlite.store.postgres import PgJobStore

DESCRIPTION = """\
Delete finished jobs that are older than their retention, in chunks, beside
running workers. Workers do the same by themselves (retain_done, retain_failed):
this is for where none runs, or to delete more. It ends early if a worker
deletes at the same moment, because only one at a time can.
"""

EXAMPLES = """\
examples:
  pqlite prune --yes
  pqlite prune --done-days 1 --failed-days 90 --yes --json
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "prune", run, help="delete finished jobs that are old", description=DESCRIPTION, examples=EXAMPLES
    )
    parser.add_argument("--done-days", type=float, default=7.0, metavar="N", help="of DONE jobs; default: %(default)g")
    parser.add_argument(
        "--failed-days",
        type=float,
        default=30.0,
        metavar="N",
        help="of FAILED and CANCELLED; default: %(default)g",
    )
    parser.add_argument("--yes", action="store_true", help="do it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    database.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Delete the jobs, and print how many they were."""
    for name, days in (("--done-days", arguments.done_days), ("--failed-days", arguments.failed_days)):
        if not 0 <= days <= 100_000:
            raise Failure(f"{name} must be 0 to 100,000, not {days:g}.", status=2)
    done, failed = timedelta(days=arguments.done_days), timedelta(days=arguments.failed_days)
    if not arguments.yes:
        raise Failure(
            f"This deletes DONE jobs older than {arguments.done_days:g} days, and FAILED and CANCELLED ones older than "
            f"{arguments.failed_days:g} days: --yes does it.",
            status=2,
        )
    address = database.address(arguments.dsn)
    with database.reaching(address.source):
        deleted = asyncio.run(_deleted(address.dsn, arguments.schema, done, failed, quiet=arguments.json))
    print(as_json({"deleted": deleted}) if arguments.json else f"Deleted {deleted:,} job{'s' * (deleted != 1)}.")
    return 0


async def _deleted(dsn: str, schema: str, done: timedelta, failed: timedelta, *, quiet: bool) -> int:
    total, cursor, told = 0, None, 0
    async with PgJobStore(dsn=dsn, schema=schema) as store:
        while True:
            cursor, deleted = await store.prune(done, failed, cursor)
            total += deleted
            if not quiet and total - told >= 10_000:
                told = total
                print(f"{total:,} deleted", file=sys.stderr)
            if cursor is None and not deleted:
                return total
