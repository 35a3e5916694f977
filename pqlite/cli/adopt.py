"""`pqlite adopt`: take over a table of pqrun's with its jobs; without --yes, say what that would do."""

from __future__ import annotations

import argparse
import asyncio
import sys

from pqlite import adoption
from pqlite.cli import database
from pqlite.cli.command import Commands, add_command
from pqlite.store.postgres import PgJobStore

DESCRIPTION = """\
Take over a table of pqrun's: its jobs move into pqlite's schema, with their
ids, and a view takes its place, through which pqrun's clients go on
inserting. Without --yes it only says what would be done. Stop pqrun's workers
first. It can be interrupted: the next run goes on where this one stopped.
"""

EXAMPLES = """\
examples:
  pqlite migrate --dsn postgresql://localhost/app
  pqlite adopt --dsn postgresql://localhost/app
  pqlite adopt --table public.jobs --yes
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "adopt",
        run,
        help="take over the jobs of pqrun",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    database.add_arguments(parser)
    parser.add_argument("--table", default=adoption.TABLE, metavar="NAME", help="pqrun's table; default: %(default)s")
    parser.add_argument("--yes", action="store_true", help="do it")
    parser.add_argument("--force", action="store_true", help="even if its triggers are lost, or jobs seem to run")


def run(arguments: argparse.Namespace) -> int:
    """Adopt the table, or print the reasons against it."""
    address = database.address(arguments.dsn)
    with database.reaching(address.source):
        found, moved = asyncio.run(_adopt(address.dsn, arguments))
    if found.state == "adopted":
        print(f"Nothing to do: {arguments.table} has been adopted.")
    elif arguments.yes:
        print(f"Adopted {arguments.table}: {moved} jobs are in the schema {arguments.schema!r}.")
    else:
        print(_told(found, arguments))
        adoption.refuse(arguments.table, found, arguments.force)
    return 0


async def _adopt(dsn: str, arguments: argparse.Namespace) -> tuple[adoption.Survey, int]:
    async with PgJobStore(dsn=dsn, schema=arguments.schema) as store, store.connection() as conn:
        found = await adoption.survey(conn, arguments.table, arguments.schema)
        if not arguments.yes:
            return found, 0
        try:
            moved = await adoption.adopt(
                conn, arguments.table, arguments.schema, force=arguments.force, progress=_progress
            )
        finally:
            if sys.stderr.isatty():
                print(file=sys.stderr)
        return found, moved


def _told(found: adoption.Survey, arguments: argparse.Namespace) -> str:
    jobs = ", ".join(f"{count} {status}" for status, count in found.jobs.items()) or "none"
    lines = []
    if found.state == "pqrun":
        lines.append(f"Would rename {arguments.table}, and put a view of the schema {arguments.schema!r} in its place.")
    else:
        lines.append(f"{arguments.table} is a view already; the jobs of the old table are being moved.")
    lines.append(f"Jobs to move: {jobs}.")
    if found.jobs.get("RUNNING"):
        lines.append("RUNNING ones become READY, or FAILED if that was their last attempt.")
    if any(found.jobs.get(status) for status in ("DONE", "FAILED", "CANCELLED")):
        lines.append("Workers delete finished jobs in time: see Worker(retain_done=..., retain_failed=...).")
    if found.columns:
        lines.append(f"Columns that go into the jobs' metadata: {', '.join(found.columns)}.")
    return "\n".join([*lines, "Nothing was changed; say --yes to do it."])


def _progress(moved: int) -> None:
    if sys.stderr.isatty():
        print(f"\rMoved {moved} jobs.", end="", file=sys.stderr, flush=True)
